"""kill -9 of the driver while shards are replaced, touched or pruned: never both contents, never neither."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.inputs import make_shards
from tests.faults.launch import Fault, waves
from tests.faults.proof import contents, prove

pytestmark = pytest.mark.faults

COMMIT = "pipeline.database:Database.swap"
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


def kill_thrice_and_resume(head: Head, input_: Path, reference: Path, *options: str, ledger: int = 1) -> None:
    """Before the commit, between commit and ledger, at a write of the ledger; the first write absorbs that commit."""
    faults = {
        "between_fragments_and_commit": Fault(COMMIT, where="suffix == ''"),
        "between_commit_and_ledger": Fault(COMMIT, when="after", where="suffix == ''"),
        "during_the_ledgers_write": Fault(COMMIT, where="suffix == 'shards' and fragments", nth=ledger),
    }
    lake = input_.parent / "lake"
    options = ("--source-root", str(input_), *options)
    before, between = contents(lake), []
    for place, fault in faults.items():
        head.place(*waves(), fault)
        killed = head.embed(input_, lake, *options)
        assert (place, head.happened(fault), killed.code) == (place, True, -signal.SIGKILL), killed.said
        between.append(contents(lake))
    head.place()
    resumed = head.embed(input_, lake, *options)
    assert resumed.code == 0, resumed.said
    after = contents(lake)
    for seen in between:
        assert all(seen.get(s) in (before.get(s), after.get(s)) for s in before | seen | after)
    prove(lake, reference)


def test_a_driver_killed_while_it_replaces_shards(head: Head, input_: Path, other_shards: Path, replaced: Path) -> None:
    change(input_, other_shards)
    kill_thrice_and_resume(head, input_, replaced, ledger=2)


def test_a_driver_killed_while_it_notes_that_shards_were_only_touched(
    head: Head, input_: Path, reference: Path
) -> None:
    for name in CHANGED:
        os.utime(input_ / name, (1, 1))
    kill_thrice_and_resume(head, input_, reference)


def test_a_driver_killed_while_it_prunes(head: Head, input_: Path, pruned: Path) -> None:
    remove(input_)
    kill_thrice_and_resume(head, input_, pruned, "--prune")
