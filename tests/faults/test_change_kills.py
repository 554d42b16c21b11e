"""kill -9 of the driver while shards are replaced, touched or pruned: never both contents, never neither."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.inputs import make_shards
from tests.faults.launch import Fault, waves
from tests.faults.proof import agree, contents, prove

pytestmark = pytest.mark.faults

COMMIT = "pipeline.database:Database.swap"
PLACES = {
    "between_fragments_and_commit": ("before", "suffix == ''"),
    "between_commit_and_ledger": ("after", "suffix == ''"),
    "during_the_ledgers_write": ("before", "suffix == 'shards' and fragments"),
}
CHANGED = ("00001.tar", "00004.tar", "part.parquet")  # with rejects, and of several slices


@pytest.fixture
def input_(shards: Path, reference: Path, tmp_path: Path) -> Path:
    """Shards that a test may change, all in the lake beside them."""
    shutil.copytree(reference, tmp_path / "lake")
    return Path(shutil.copytree(shards, tmp_path / "shards"))  # times and all


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("other") / "shards", edition=1)


@pytest.fixture(scope="session")
def replaced(shared_head: Head, shards: Path, other_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run without faults over the shards as they are once some have changed."""
    folder = tmp_path_factory.mktemp("replaced")
    input_ = Path(shutil.copytree(shards, folder / "shards"))
    change(input_, other_shards)
    shared_head.place()
    assert shared_head.embed(input_, folder / "lake").code == 0
    return folder / "lake"


@pytest.fixture(scope="session")
def pruned(shared_head: Head, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run without faults over the shards that are left."""
    folder = tmp_path_factory.mktemp("pruned")
    input_ = Path(shutil.copytree(shards, folder / "shards"))
    remove(input_)
    shared_head.place()
    assert shared_head.embed(input_, folder / "lake").code == 0
    return folder / "lake"


def change(input_: Path, other_shards: Path) -> None:
    for name in CHANGED:
        shutil.copy(other_shards / name, input_ / name)


def remove(input_: Path) -> None:
    for name in CHANGED:
        (input_ / name).unlink()


def kill_and_resume(head: Head, input_: Path, fault: Fault, *options: str) -> None:
    lake = input_.parent / "lake"
    options = ("--source-root", str(input_), *options)
    before = contents(lake)
    head.place(*waves(), fault)
    killed = head.embed(input_, lake, *options)
    assert (head.happened(fault), killed.code) == (True, -signal.SIGKILL), killed.said
    between = contents(lake)
    head.place()
    resumed = head.embed(input_, lake, *options)
    assert resumed.code == 0, resumed.said
    after = contents(lake)
    assert all(between.get(s) in (before.get(s), after.get(s)) for s in before | between | after)
    agree(lake)


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed_while_it_replaces_shards(
    head: Head, input_: Path, other_shards: Path, replaced: Path, tmp_path: Path, place: str
) -> None:
    change(input_, other_shards)
    when, where = PLACES[place]
    kill_and_resume(head, input_, Fault(COMMIT, when=when, where=where, nth=2))
    prove(tmp_path / "lake", replaced)


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed_while_it_notes_that_shards_were_only_touched(
    head: Head, input_: Path, reference: Path, tmp_path: Path, place: str
) -> None:
    for name in CHANGED:
        os.utime(input_ / name, (1, 1))
    when, where = PLACES[place]
    kill_and_resume(head, input_, Fault(COMMIT, when=when, where=where))
    prove(tmp_path / "lake", reference)


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed_while_it_prunes(head: Head, input_: Path, pruned: Path, tmp_path: Path, place: str) -> None:
    remove(input_)
    when, where = PLACES[place]
    kill_and_resume(head, input_, Fault(COMMIT, when=when, where=where), "--prune")
    prove(tmp_path / "lake", pruned)
