"""What a run does on Ray when a GPU is lost, nothing goes forward, the model is broken, or there is nothing to embed.

The models are fakes, which an actor need not wait for torch to have.
"""

import time
from pathlib import Path

import lancedb
import pytest
import ray

from pipeline import stages
from pipeline.barred import Barred
from pipeline.cluster import Placement
from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Model
from pipeline.errors import ClusterError, InputError, RejectRateError, StalledError
from pipeline.run import Run
from pipeline.summary import Summary
from pipeline.watch.watchdog import watching
from tests.blocks import STORED
from tests.broken import Plan, breaking_model, noted
from tests.fakes import Quiet, fake_model
from tests.shards import members, whole, write_parquet, write_tar

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    for i in range(6):
        write_tar(tmp_path / "shards" / f"{i:05d}.tar", members(20, start=i * 20))
    return tmp_path / "shards"


def run(shards: Path, model: Model, said: Quiet | None = None, **faults: float) -> Summary:
    config = RunConfig(
        ReadConfig((str(shards),)),
        WriteConfig(str(shards.parent / "lake")),
        EmbedConfig(batch_size=8, actors=1),
        FaultConfig(**faults),  # type: ignore[arg-type]
    )
    return Run(config, model, said or Quiet()).start()


def keys(shards: Path) -> list[str]:
    return sorted(lancedb.connect(shards.parent / "lake").open_table("laion").to_pandas()["key"])


def test_run_replaces_an_actor_that_lost_its_gpu_and_every_row_lands_once(shards: Path, tmp_path: Path) -> None:
    plan, said = Plan(tmp_path / "notes", losses=2, seconds=0.3), Quiet()
    summary = run(shards, breaking_model(plan), said, stall_seconds=20)  # short, so that the news comes soon
    assert (summary.outcome, summary.rows) == ("done", 120)
    assert keys(shards) == [f"{i:05d}" for i in range(120)]
    assert (noted(plan.folder, "loss"), noted(plan.folder, "start")) == (2, 3)
    assert [line.partition(" by ")[2] for line in said.lines if "lost its GPU" in line] == [
        "'CUDA error: an illegal memory access was encountered'; what it was at is done again"
    ] * 2


def test_run_says_how_long_compiling_took_however_short_it_is(shards: Path, tmp_path: Path) -> None:
    said = Quiet()
    run(shards, breaking_model(Plan(tmp_path / "notes", compiled=34.2)), said)
    (line,) = [line for line in said.lines if "compiled" in line]
    assert line.startswith("compiled the model in 34 s on node ")


def test_run_ends_after_three_lost_gpus_on_one_node_names_the_node_and_lets_go_of_the_cluster(
    shards: Path, tmp_path: Path
) -> None:
    """Else a process that lives on would compute for ever, on a cluster that others pay for."""
    plan = Plan(tmp_path / "notes", losses=10**6)
    with pytest.raises(ClusterError) as told:
        run(shards, breaking_model(plan), stall_seconds=30)
    assert str(told.value).startswith("node ")
    assert "lost its GPU" in str(told.value)
    assert "'CUDA error: an illegal memory access was encountered'" in str(told.value)
    time.sleep(1)
    starts = noted(plan.folder, "start")
    time.sleep(5)
    assert noted(plan.folder, "start") == starts
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


def test_run_that_makes_no_progress_names_where_and_ends(shards: Path, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "notes", seconds=60)
    began = time.monotonic()
    with pytest.raises(
        StalledError, match=r"no progress for \d+ s in embedding: last on node \S+ \(\w{8}\), slice 0000"
    ):
        run(shards, breaking_model(plan), stall_seconds=8)  # longer than an actor takes to start on a busy machine
    assert time.monotonic() - began < 45


def test_run_without_an_actor_that_starts_says_for_what_it_waits(shards: Path, tmp_path: Path) -> None:
    model = breaking_model(Plan(tmp_path / "notes", start_seconds=60))
    with pytest.raises(StalledError, match=r"in embedding: no actor has started: computing on cpu .*`ray status`"):
        run(shards, model, stall_seconds=4)


def test_run_with_too_many_rejects_ends_and_keeps_what_was_whole(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "good.tar", members(20))
    run(shards, breaking_model(Plan(tmp_path / "notes")))
    for name in ("bad-0.tar", "bad-1.tar"):
        bad = [(f"{i:05d}.{kind}", b"x") for i in range(600) for kind in ("jpg", "txt")]
        write_tar(shards / name, bad)
    with pytest.raises(
        RejectRateError, match=r"100\.0% of the first 1\d{3} pairs were rejected, .*: undecodable 1\d{3};"
    ):
        run(shards, breaking_model(Plan(tmp_path / "notes")))
    assert keys(shards) == [f"{i:05d}" for i in range(20)]


def test_run_with_a_model_that_cannot_embed_a_plain_picture_names_the_node(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ClusterError, match=r"cannot be used on node \S+ \(\w{8}\): of a plain grey picture, text_embedd"
    ):
        run(shards, breaking_model(Plan(tmp_path / "notes", nan=True)))
    assert keys(shards) == []


def test_stages_run_apart_also_where_a_reader_and_an_actor_take_as_many_cpus(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray would run them as one, in the actors: no reading beside embedding, and no batch filled from small shards."""
    on = Placement(
        1, most_actors=1, reader_cpus=0.5, num_cpus=0.5, num_gpus=0, device="cpu", dtype="float32", reason="test"
    )
    model, read = breaking_model(Plan(tmp_path / "notes")), ReadConfig((str(shards),))
    with watching(60, "test") as watch:
        slices = {"a": whole(shards / "00000.tar")}
        crew = stages.Crew(on, watch.line)
        samples = stages.prepared(slices, read, model, crew, Barred())
        stages.embedded(samples, EmbedConfig(), model, crew, STORED).explain()
    optimized = capsys.readouterr().out.partition("Physical Plan (Optimized)")[2]
    assert "TaskPoolMapOperator[MapBatches(read_stage)]" in optimized


def test_run_without_a_sample_says_what_was_looked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    for _ in range(2):  # the second time, too, when the slice is in the ledger
        with pytest.raises(InputError, match=r"no sample in 1 shards .*looked for pictures"):
            run(tmp_path / "empty.tar", fake_model())


def test_run_on_laions_metadata_names_img2dataset(tmp_path: Path) -> None:
    write_parquet(tmp_path / "meta.parquet", {"URL": ["http://x/1.jpg"], "TEXT": ["a cat"]})
    summary = run(tmp_path / "meta.parquet", fake_model())
    assert summary.outcome == "incomplete"
    assert "img2dataset" in summary.failures["meta.parquet"]


def test_run_of_only_rejects_commits_the_slice(tmp_path: Path) -> None:
    write_tar(tmp_path / "bad.tar", [("a.jpg", b"no picture"), ("a.txt", b"a caption")])
    summary = run(tmp_path / "bad.tar", fake_model())
    assert (summary.rows, summary.rejects, summary.outcome) == (0, {"undecodable": 1}, "done")
    assert run(tmp_path / "bad.tar", fake_model()).skipped == 1
