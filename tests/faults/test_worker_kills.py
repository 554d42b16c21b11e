"""kill -9 of workers in mid-job: the job itself gets over it, with nothing lost and nothing twice."""

from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove

pytestmark = pytest.mark.faults

WRITE = "pipeline.database:Database.write"
PLACES = {
    "an_embedding_actor_before_a_batch": Fault("pipeline.embed:embed_batch", nth=2),
    "an_embedding_actor_after_a_batch": Fault("pipeline.embed:embed_batch", when="after", nth=3),
    "a_reading_task_in_a_shard": Fault("pipeline.decode:decode", nth=25),
    "a_reading_task_at_its_end": Fault("pipeline.prepare:_table", when="after", nth=5),
    "a_writing_task_before_its_fragment": Fault(WRITE, where="suffix == ''"),
    "a_writing_task_after_its_fragment": Fault(WRITE, when="after", where="suffix == ''", nth=2),
    "an_inspecting_task": Fault("pipeline.gather:inspect_block", nth=2),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_killed_costs_nothing(head: Head, shards: Path, reference: Path, tmp_path: Path, place: str) -> None:
    fault = PLACES[place]
    head.place(*waves(), fault)
    done = head.embed(shards, tmp_path / "lake")
    assert head.happened(fault), done.said
    assert (done.code, done.summary["outcome"]) == (0, "done"), done.said
    prove(tmp_path / "lake", reference)
