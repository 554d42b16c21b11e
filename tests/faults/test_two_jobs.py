"""Several jobs at once on the same shards and table: all end well, and each row lands once."""

import signal
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove

pytestmark = pytest.mark.faults

SWAP = "pipeline.database:Database.swap"
SLICES = 13


def test_three_jobs_at_once_all_end_well(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    jobs = [head.start(shards, tmp_path / "lake") for _ in range(3)]
    done = [job.done() for job in jobs]
    assert [d.code for d in done] == [0, 0, 0], [d.said for d in done]
    assert sum(d.summary["committed"] for d in done) == SLICES
    prove(tmp_path / "lake", reference)


def test_a_job_killed_at_its_commit_leaves_the_other_unharmed(
    head: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    fault = Fault(SWAP, when="after", where="suffix == '' and fragments")  # the first of either
    head.place(*waves(), fault)
    jobs = [head.start(shards, tmp_path / "lake") for _ in range(2)]
    done = [job.done() for job in jobs]
    assert sorted(d.code for d in done) == [-signal.SIGKILL, 0], [d.said for d in done]
    prove(tmp_path / "lake", reference)


def test_a_reply_to_a_commit_that_is_lost_is_looked_up(
    head: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    lost = [
        Fault("lance:LanceDataset.commit", "raise", "after", nth, f"'/{name}.lance' in str(base_uri)", says="reset")
        for name, nth in (("laion", 4), ("laion_shards", 3), ("laion_rejects", 3))
    ]
    head.place(*waves(), *lost)
    done = head.embed(shards, tmp_path / "lake")
    assert all(map(head.happened, lost)), done.said
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
