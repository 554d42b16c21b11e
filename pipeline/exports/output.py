"""An export's files: each is whole or absent, and a folder is there only once all of it is."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from pipeline.errors import ConfigError, OutputError
from pipeline.stores.retry import call
from pipeline.stores.storage import connect, explain, redact

_PARTIAL = ".partial"  # the name's end while it is written


@dataclass
class Folder:
    """Where an export's files go. On a store each appears when it is closed, locally all of them at the end."""

    store: AbstractFileSystem
    path: str
    written: list[str] = field(default_factory=list)

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A file to write; `name` may have folders in it."""
        path = f"{self.path}/{name}"
        with _whole(self.store, path) as file:
            yield file
        self.written.append(path)


@contextmanager
def whole_file(uri: str) -> Iterator[BinaryIO]:
    """A file that appears under its name once all of it is written.

    Raises:
        ConfigError: there is one already.
        OutputError: it cannot be written.
    """
    store, path = connect(uri)
    with writing(uri):
        store.invalidate_cache()
        if call(store.exists, path):
            raise ConfigError(f"--output {redact(uri)} is there already: name another file, or remove it first")
        with _whole(store, path) as file:
            yield file


@contextmanager
def whole_folder(uri: str) -> Iterator[Folder]:
    """A folder for an export; after an error nothing of it stays.

    Raises:
        ConfigError: it holds something already.
        OutputError: it cannot be written.
    """
    store, path = connect(uri)
    with writing(uri):
        _require_empty(store, path, uri)
        if isinstance(store, LocalFileSystem):
            with _renamed(Path(path)) as partial:
                yield Folder(store, str(partial))
            return
        folder = Folder(store, path.rstrip("/"))
        try:
            yield folder
        except BaseException:
            for each in folder.written:
                with suppress(Exception):  # the first error is told; without its record the export is not taken for one
                    store.rm_file(each)
            raise


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Turn what a store raises into an OutputError that names the output."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"--output {redact(uri)} cannot be written: {explain(error)}") from error


def _require_empty(store: AbstractFileSystem, path: str, uri: str) -> None:
    store.invalidate_cache()
    try:
        there = [name for name in call(store.ls, path, detail=False) if name.rstrip("/") != path.rstrip("/")]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        there = [path]
    if there or store.isfile(path):
        raise ConfigError(f"--output {redact(uri)} is not an empty folder: name another, or remove it first")


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A folder beside `path`, which gets its name at the end."""
    partial = path.with_name(path.name + _PARTIAL)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.mkdir()
    except FileExistsError:
        raise _left(partial) from None
    try:
        yield partial
        if path.exists():
            path.rmdir()  # empty, as was looked at
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _whole(store: AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    if isinstance(store, LocalFileSystem):
        partial = Path(path + _PARTIAL)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            local = partial.open("xb")
        except FileExistsError:
            raise _left(partial) from None
        try:
            with local:
                yield local
            partial.rename(path)
        except BaseException:
            partial.unlink()
            raise
        return
    remote = store.open(path, "wb", autocommit=False)
    try:
        yield cast(BinaryIO, remote)
        remote.close()
        remote.commit()
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            remote.discard()
        if isinstance(remote, AbstractBufferedFile):
            remote.closed = True  # or it would begin another upload when it is collected
        with suppress(Exception):  # of a store that shows a file from its first byte on
            store.rm_file(path)
        raise


def _left(partial: Path) -> ConfigError:
    return ConfigError(
        f"{partial} is there: an export that was broken off, or one at work. Remove it if it is the former"
    )
