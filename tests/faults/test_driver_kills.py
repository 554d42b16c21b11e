"""kill -9 of the driver at every place that matters; the same command then goes on, and nothing is lost or twice.

Each kill is placed at one call inside the job, by the hook; each start goes on from what the last kill left behind.
"""

import signal
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove, sound

pytestmark = pytest.mark.faults

SWAP, APPEND = "pipeline.database:Database.swap", "pipeline.table:Database.append"
CHAINS = {
    "until_it_commits": {
        "as_the_table_is_made": Fault(SWAP, when="after", where="suffix == ''"),
        "before_any_fragment": Fault("pipeline.follow:Follow._start_writer"),
        "as_the_rejects_are_written": Fault(SWAP, where="suffix == 'rejects' and fragments"),
        "between_rejects_and_commit": Fault(APPEND, when="after", where="suffix == 'rejects'"),
        "between_fragments_and_first_commit": Fault(SWAP, where="suffix == '' and fragments"),
        "between_fragments_and_later_commit": Fault(SWAP, where="suffix == '' and fragments", nth=3),
    },
    "once_it_commits": {
        "between_commit_and_ledger": Fault(SWAP, when="after", where="suffix == '' and fragments"),
        # The first write of a start absorbs what the start before had committed and not written down.
        "as_a_start_absorbs_commits": Fault(SWAP, where="suffix == 'shards' and fragments"),
        "during_the_ledgers_write": Fault(SWAP, where="suffix == 'shards' and fragments", nth=2),
        "after_the_ledgers_write": Fault(SWAP, when="after", where="suffix == 'shards' and fragments", nth=2),
        "before_the_run_record": Fault(APPEND, where="suffix == 'runs'"),
    },
}
UNPLANNED = ("as_the_table_is_made", "as_a_start_absorbs_commits")  # killed before a start says what it skips


@pytest.mark.parametrize("chain", CHAINS)
def test_a_driver_killed_at_one_place_after_the_other_loses_nothing(
    head: Head, shards: Path, reference: Path, tmp_path: Path, chain: str
) -> None:
    lake, whole = tmp_path / "lake", 0
    for place, fault in CHAINS[chain].items():
        head.place(*waves(), fault)
        killed = head.embed(shards, lake)
        assert (place, head.happened(fault), killed.code) == (place, True, -signal.SIGKILL), killed.said
        if place not in UNPLANNED:
            assert (place, f"skipped {whole}, " in killed.said) == (place, True), killed.said
        whole = sound(lake, reference)
    head.place()
    done = head.embed(shards, lake)
    assert done.code == 0, done.said
    assert (done.summary["skipped"], done.summary["elsewhere"]) == (whole, 0)
    prove(lake, reference)
