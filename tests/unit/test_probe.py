"""The database's store is asked before the first write; here folders, and a fake that replaces what it has."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from pipeline.errors import PreflightError
from pipeline.stores import probe
from pipeline.stores.exclusive import Bucket, Folder
from pipeline.stores.probe import Probe, require_atomic_writes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_probe_takes_a_folder_and_leaves_nothing_there(tmp_path: Path) -> None:
    require_atomic_writes(str(tmp_path))
    assert names(tmp_path) == []


def test_probe_does_not_make_the_folder_of_a_run_that_may_yet_be_refused(tmp_path: Path) -> None:
    require_atomic_writes(str(tmp_path / "new" / "lake"))
    require_atomic_writes(f"file://{tmp_path}/new/lake")
    assert names(tmp_path) == []


@pytest.mark.parametrize("db", ["/proc/lake", "{}/file", "{}/file/lake"])
def test_probe_refuses_what_is_no_folder_to_write_to(tmp_path: Path, db: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=rf"^{db.format(tmp_path)} cannot be written to: \w"):
        require_atomic_writes(db.format(tmp_path))


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries."""
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.mark.usefixtures("_no_waits")
def test_probe_refuses_a_scheme_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_PATIENCE", 0)
    with pytest.raises(PreflightError, match=r'foo://bucket/lake cannot be written to: .*"foo://bucket/lake"'):
        require_atomic_writes("foo://bucket/lake")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryStore]:
    store = MemoryStore()
    monkeypatch.setattr(probe, "store_at", lambda db: Bucket(store))
    yield store
    assert obstore.list(store).collect() == []  # however it ends


class Puts:
    """What a store makes of each put: an error before it, an error after it, or nothing unusual."""

    def __init__(self, *answers: str, conditional: bool = True) -> None:
        self.answers = list(answers)
        self.conditional = conditional
        self.asked = 0
        self.put = obstore.put

    def __call__(self, store: MemoryStore, name: str, data: bytes, mode: str) -> None:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else ""
        if answer == "busy":
            raise GenericError("503 Slow Down")
        self.put(store, name, data, mode=mode if self.conditional else "overwrite")
        if answer == "lost":
            raise GenericError("timed out")


def test_probe_refuses_a_store_that_replaces_what_it_has(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstore, "put", Puts(conditional=False))
    with pytest.raises(
        PreflightError, match=r"s3://b/lake: the store replaced an object .*If-None-Match.*would be lost"
    ):
        require_atomic_writes("s3://b/lake")


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize("answers", [("busy",), ("lost",), ("", "busy"), ("busy", "lost", "", "busy")])
def test_probe_asks_again_where_an_answer_is_missing(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
) -> None:
    puts = Puts(*answers)
    monkeypatch.setattr(obstore, "put", puts)
    require_atomic_writes("s3://b/lake")
    assert puts.asked > len(answers)


def test_probe_gives_up_on_a_store_that_never_answers(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_PATIENCE", 0.5)
    monkeypatch.setattr(obstore, "put", Puts(*["busy"] * 1000))
    with pytest.raises(PreflightError, match="s3://b/lake cannot be written to: 503 Slow Down"):
        require_atomic_writes("s3://b/lake")


@pytest.mark.usefixtures("_no_waits")
def test_probe_removes_once_more_what_a_cut_connection_left(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, delete = iter(["cut", "lost", ""]), obstore.delete

    def cut(store: MemoryStore, name: str) -> None:
        answer = next(asked)
        if answer != "cut":
            delete(store, name)
        if answer:
            raise GenericError("HTTP error: error sending request")

    monkeypatch.setattr(obstore, "delete", cut)
    require_atomic_writes("s3://b/lake")
    assert next(asked, None) is None


def test_probe_refuses_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", none)
    with pytest.raises(PreflightError, match=f"^{tmp_path} cannot be written to: Operation not permitted$"):
        require_atomic_writes(str(tmp_path))
    assert names(tmp_path) == []


def test_probe_says_that_it_cannot_remove_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(self: Folder, name: str) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(Folder, "remove", kept)
    with pytest.raises(
        PreflightError,
        match=r"does not let its objects be removed, such as \.bridgelake-probe-\w+-driver: AccessDenied",
    ):
        require_atomic_writes(str(tmp_path))


def test_probe_tells_no_secret(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError("<Code>AccessDenied</Code><Message>key AKIAABCDEFGHIJKLMNOP may not</Message>")

    monkeypatch.setattr(obstore, "put", refused)
    with pytest.raises(PreflightError) as told:
        require_atomic_writes("s3://user:secret@b/lake")
    assert str(told.value) == "s3://***@b/lake cannot be written to: AccessDenied: key *** may not"


def test_probe_sees_what_another_process_wrote_and_only_that(tmp_path: Path) -> None:
    mine = Probe(str(tmp_path))
    theirs = Probe(str(tmp_path), mine.stem)
    with mine.removing("driver"):
        assert mine.create("driver")
        assert theirs.sees("driver")
        assert not theirs.sees("other")
        assert not Probe(str(tmp_path / "elsewhere"), mine.stem).sees("other")
    assert names(tmp_path) == []
