"""kill -9 of the driver at every place that matters; the same command then goes on, and nothing is lost or twice.

Each kill is placed at one call inside the job, by the hook.
"""

import signal
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove, sound

pytestmark = pytest.mark.faults

SWAP, APPEND = "pipeline.database:Database.swap", "pipeline.table:Database.append"
PLACES = {
    "as_the_table_is_made": Fault(SWAP, when="after", where="suffix == ''"),
    "before_any_fragment": Fault("pipeline.follow:Follow._start_writer"),
    "as_the_rejects_are_written": Fault(SWAP, where="suffix == 'rejects' and fragments"),
    "between_rejects_and_commit": Fault(APPEND, when="after", where="suffix == 'rejects'"),
    "between_fragments_and_first_commit": Fault(SWAP, where="suffix == '' and fragments"),
    "between_fragments_and_later_commit": Fault(SWAP, where="suffix == '' and fragments", nth=3),
    "between_commit_and_ledger": Fault(SWAP, when="after", where="suffix == '' and fragments", nth=2),
    "during_the_ledgers_write": Fault(SWAP, where="suffix == 'shards' and fragments", nth=2),
    "after_the_ledgers_write": Fault(SWAP, when="after", where="suffix == 'shards' and fragments", nth=2),
    "before_the_run_record": Fault(APPEND, where="suffix == 'runs'"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed_loses_nothing(head: Head, shards: Path, reference: Path, tmp_path: Path, place: str) -> None:
    fault = PLACES[place]
    head.place(*waves(), fault)
    killed = head.embed(shards, tmp_path / "lake")
    assert head.happened(fault), killed.said
    assert killed.code == -signal.SIGKILL
    committed = sound(tmp_path / "lake", reference)
    head.place()
    resumed = head.embed(shards, tmp_path / "lake")
    assert resumed.code == 0, resumed.said
    assert (resumed.summary["skipped"], resumed.summary["elsewhere"]) == (committed, 0)
    prove(tmp_path / "lake", reference)


def test_a_driver_killed_again_and_again_gets_there(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    for _ in range(2):  # each start absorbs what the one before had committed and not written down
        fault = Fault(SWAP, when="after", where="suffix == '' and fragments")
        head.place(*waves(), fault)
        assert head.embed(shards, tmp_path / "lake").code == -signal.SIGKILL
        sound(tmp_path / "lake", reference)
    head.place()
    assert head.embed(shards, tmp_path / "lake").code == 0
    prove(tmp_path / "lake", reference)
