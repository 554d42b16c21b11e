"""What a node is asked, without a cluster; on Ray it is in tests/integration/test_preflight.py."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import preflight
from pipeline.errors import PreflightError
from pipeline.preflight import TESTED, Found, look, require_store
from pipeline.stores.probe import Probe
from tests.conftest import REPOSITORY
from tests.shards import members, write_tar


def test_preflight_holds_to_the_versions_that_are_pinned() -> None:
    pinned = dict(
        re.findall(
            r'^    "(lancedb|pylance|ray)(?:\[.*\])?==([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text(), re.M
        )
    )
    assert pinned == TESTED


def test_preflight_refuses_another_version_and_names_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(preflight.TESTED, "pylance", "99.0.0")
    why = f"pylance {version('pylance')}, tested is 99.0.0: install the tested versions (requirements.lock)"
    with pytest.raises(PreflightError) as told:
        require_store(str(tmp_path))
    assert str(told.value) == f"this process has {why}"
    assert look(Probe(str(tmp_path)), "n", []) == Found(why)


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    (tmp_path / "lake").mkdir()
    made = Probe(str(tmp_path / "lake"))
    made.create("driver")
    return made


def test_node_that_can_do_all_leaves_nothing_of_its_own(probe: Probe, tmp_path: Path) -> None:
    shard = str(write_tar(tmp_path / "a.tar", members(1)))
    assert look(probe, "n", [shard]) == Found()
    assert [path.name for path in (tmp_path / "lake").iterdir()] == [probe.name("driver")]


def test_node_with_another_folder_under_the_same_path_is_found_out(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    found = look(Probe(str(tmp_path / "another"), probe.stem), "n", [])
    assert "is not the same there as where the job runs: use a folder that all nodes share" in found.problem


def test_node_that_cannot_write_is_found_out(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Probe, of: str) -> bool:
        raise PreflightError("s3://b/lake cannot be written to: AccessDenied")

    monkeypatch.setattr(Probe, "create", refused)
    assert look(probe, "n", []) == Found("s3://b/lake cannot be written to: AccessDenied")


def test_node_that_reads_one_of_the_shards_can_read(probe: Probe, tmp_path: Path) -> None:
    shard, gone = str(write_tar(tmp_path / "a.tar", members(1))), str(tmp_path / "gone.tar")
    assert look(probe, "n", [gone, shard]) == Found()
    (unread,) = look(probe, "n", [gone]).unread
    assert (unread.uri, unread.why) == (gone, f"{gone}: gone, or never there: no such file")
