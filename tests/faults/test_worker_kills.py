"""kill -9 of workers in mid-job: the job itself gets over it, with nothing lost and nothing twice."""

from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove

pytestmark = pytest.mark.faults

WRITE = "pipeline.database:Database.write"
KILLS = {
    "early": {
        "an_embedding_actor_before_a_batch": Fault("pipeline.embed:embed_batch", nth=2),
        "a_reading_task_in_a_shard": Fault("pipeline.decode:decode", nth=25),
        "a_writing_task_before_its_fragment": Fault(WRITE, where="suffix == ''"),
    },
    "late": {
        "an_embedding_actor_after_a_batch": Fault("pipeline.embed:embed_batch", when="after", nth=3),
        "a_reading_task_at_its_end": Fault("pipeline.prepare:_table", when="after", nth=5),
        "a_writing_task_after_its_fragment": Fault(WRITE, when="after", where="suffix == ''", nth=2),
        "an_inspecting_task": Fault("pipeline.gather:inspect_block", nth=2),
    },
}


@pytest.mark.parametrize("when", KILLS)
def test_workers_of_every_kind_killed_in_one_run_cost_nothing(
    head: Head, shards: Path, reference: Path, tmp_path: Path, when: str
) -> None:
    head.place(*waves(), *KILLS[when].values())
    done = head.embed(shards, tmp_path / "lake")
    assert [place for place, fault in KILLS[when].items() if not head.happened(fault)] == [], done.said
    assert (done.code, done.summary["outcome"]) == (0, "done"), done.said
    prove(tmp_path / "lake", reference)
