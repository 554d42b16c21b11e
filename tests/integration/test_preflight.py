"""The look at a cluster's nodes, on Ray; what only another machine could show is brought about in the driver."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError

from pipeline import preflight
from pipeline.errors import PreflightError
from pipeline.preflight import require_nodes
from pipeline.stores.probe import Probe
from tests.shards import members, write_tar

pytestmark = pytest.mark.usefixtures("ray_session")
NODE = r"^node [\d.]+ \(\w{8}\): "


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


def test_nodes_that_can_do_all_are_told_of_in_no_word_and_in_no_time(lake: Path, tmp_path: Path) -> None:
    shard = str(write_tar(tmp_path / "a.tar", members(1)))
    assert require_nodes(str(lake), [shard]) == []
    began = time.monotonic()
    assert require_nodes(str(lake), [shard]) == []
    assert time.monotonic() - began < 2
    assert list(lake.iterdir()) == []


def test_node_that_has_another_folder_under_the_same_path_is_refused(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "create", lambda self, of: True)  # in this process only
    with pytest.raises(PreflightError, match=NODE + re.escape(f"{lake} is not the same there as where the job runs")):
        require_nodes(str(lake), [])
    assert list(lake.iterdir()) == []


def test_node_that_goes_away_meanwhile_is_told_and_stops_nothing(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"Alive": True, "NodeID": "0123456789abcdef" * 3 + "01234567", "NodeManagerAddress": "192.0.2.1"}
    nodes = [*ray.nodes(), gone]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert require_nodes(str(lake), []) == ["went away while it was looked at: node 192.0.2.1 (01234567)"]
    assert list(lake.iterdir()) == []


def failing(error: RayError) -> Callable[[object], None]:
    def get(task: object) -> None:
        raise error

    return get


@pytest.mark.parametrize("error", [TaskUnschedulableError("no such node"), NodeDiedError("it was terminated")])
def test_node_that_goes_away_before_or_while_it_looks_stops_nothing(
    lake: Path, monkeypatch: pytest.MonkeyPatch, error: RayError
) -> None:
    monkeypatch.setattr(preflight.ray, "get", failing(error))
    (told,) = require_nodes(str(lake), [])
    assert re.match(r"went away while it was looked at: node [\d.]+ \(\w{8}\)$", told)


def test_node_that_cannot_look_for_another_reason_is_refused(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.ray, "get", failing(WorkerCrashedError()))
    with pytest.raises(PreflightError, match=NODE + "the run cannot go on: The worker died"):
        require_nodes(str(lake), [])


def test_node_that_cannot_read_what_the_job_can_is_refused(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = str(tmp_path / "gone.tar")
    assert (
        require_nodes(str(lake), [gone]) == []
    )  # the job cannot either: the shard's fault, which is not ours to judge
    monkeypatch.setattr(preflight, "_unreadable", lambda uri: None)  # in this process only
    with pytest.raises(PreflightError, match=NODE + f"{gone}: gone, or never there: no such file$"):
        require_nodes(str(lake), [gone])
    assert list(lake.iterdir()) == []


def test_node_that_does_not_answer_in_time_is_told_of(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_SECONDS", 0.0)
    (told,) = require_nodes(str(lake), [])
    assert re.match(r"did not answer within 0 s, .*: node [\d.]+ \(\w{8}\)$", told)
