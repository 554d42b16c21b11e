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


@pytest.mark.parametrize("suffix", ["", "shards", "rejects"])
def test_a_reply_to_a_commit_that_is_lost_is_looked_up(
    head: Head, shards: Path, reference: Path, tmp_path: Path, suffix: str
) -> None:
    where = f"'/laion{suffix and '_'}{suffix}.lance' in str(base_uri)"
    fault = Fault("lance:LanceDataset.commit", "raise", "after", 3 if suffix else 4, where, says="connection reset")
    head.place(*waves(), fault)
    done = head.embed(shards, tmp_path / "lake")
    assert head.happened(fault), done.said
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
