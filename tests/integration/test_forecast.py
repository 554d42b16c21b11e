"""A forecast and then the run, on Ray, with a fake model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.errors import ClusterError
from pipeline.forecast import Limits, forecast
from pipeline.forecasts.measure import Patience
from pipeline.forecasts.sampling import Budget
from pipeline.run import Run
from tests.broken import Plan, breaking_model
from tests.fakes import Quiet, fake_model
from tests.shards import members, write_tar

pytestmark = pytest.mark.usefixtures("ray_session")
SHORT = Limits(Budget(), Patience(start=60.0, work=2.0))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "shards").mkdir()
    for i, count in enumerate((30, 300, 120, 60)):
        broken = [(f"{9000 + k}.{kind}", b"x") for k in range(i) for kind in ("jpg", "txt")]
        write_tar(tmp_path / "shards" / f"{i}.tar", [*members(count, start=1000 * i), *broken])
    write = WriteConfig(str(tmp_path / "lake"), commit_seconds=60.0)  # the first, and the last
    return RunConfig(ReadConfig((str(tmp_path / "shards"),)), write, EmbedConfig(batch_size=4, actors=1))


def test_run_does_what_its_forecast_told(config: RunConfig, tmp_path: Path) -> None:
    told = forecast(config, fake_model(), gpu_hour_price=1.0, limits=SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert told.cluster is not None
    assert told.cluster.footprint is not None
    assert told.cluster.dtype == "float32"
    assert told.pace.source.startswith("measured: 1 of 1 actors")
    done = Run(config, fake_model(), Quiet()).start()
    assert (told.totals.pairs.value, told.totals.rejects.value) == (done.pairs, sum(done.rejects.values())) == (516, 6)
    assert (told.todo.shards, told.pace.commits) == (done.committed, done.commits) == (4, 2)
    assert told.pace.seconds is not None
    json.dumps(told.to_dict())
    again = forecast(config, fake_model(), limits=SHORT)
    assert (again.todo.shards, again.done.pairs, again.pace.seconds) == (0, 510, 0)


def test_forecast_finds_a_model_that_cannot_be_used(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot be used on node .*: of a plain grey picture"):
        forecast(config, breaking_model(Plan(tmp_path / "notes", nan=True)), limits=SHORT)


def test_forecast_on_a_cluster_that_starts_no_actor_in_time_says_so(config: RunConfig, tmp_path: Path) -> None:
    slow = breaking_model(Plan(tmp_path / "notes", start_seconds=30))
    told = forecast(config, slow, limits=replace(SHORT, patience=Patience(start=2.0)))
    assert told.pace.seconds is None
    assert told.pace.source.startswith("not measured: nothing was embedded in 2 s")
    assert told.totals.pairs.value == 516
