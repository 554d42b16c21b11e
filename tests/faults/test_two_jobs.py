"""Several jobs at once on the same shards and table: all end well, and each row lands once."""

from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.proof import prove, rows

pytestmark = pytest.mark.faults


def test_three_jobs_at_once_all_end_well(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    jobs = [head.start(shards, tmp_path / "lake") for _ in range(3)]
    done = [job.done() for job in jobs]
    assert [d.code for d in done] == [0, 0, 0], [d.said for d in done]
    counts = [(d.summary["committed"], d.summary["elsewhere"], d.summary["skipped"]) for d in done]
    prove(tmp_path / "lake", reference)
    assert sum(committed for committed, _, _ in counts) == len(set(rows(tmp_path / "lake")["shard"])) + 2, counts
