"""Whether the files of a table hold anything of pairs that were taken down, in any version or in none.

Every data and index file is read through Lance, deleted rows too: it compresses strings, so a search for their bytes
would find nothing in a file that holds them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from lance.file import LanceFileReader

from pipeline.barred import COLUMNS, Takedowns
from pipeline.database import Database, naming, storage_options
from pipeline.versions import ranges

HOLDING = ("", "rejects")  # the tables that hold pairs
_REJECTS = ("dataset", "shard", "key", "caption_index", "url")
_BATCH = 8192  # rows


@dataclass(frozen=True, slots=True)
class Survey:
    """What the files of one table hold."""

    table: str
    files: int  # that were read
    dirty: frozenset[str]  # those that hold something that was taken down
    of: dict[int, set[str]]  # version -> the files that it refers to

    @property
    def tracked(self) -> set[str]:
        """Files that any version refers to."""
        return set().union(*self.of.values())

    @property
    def orphans(self) -> frozenset[str]:
        """Such files that no version refers to."""
        return self.dirty - self.tracked

    def line(self) -> str:
        """As a person reads it."""
        if not self.dirty:
            versions = f"{len(self.of)} versions ({ranges(list(self.of))})"
            return f"proof: {self.table}: 0 of {self.files} data and index files, so 0 of {versions}, hold any of them"
        held = [version for version, paths in self.of.items() if paths & self.dirty]
        text = f"not gone: {self.table}: {len(self.dirty)} of its {self.files} data and index files hold some"
        if held:
            text += f", of versions {ranges(held)}"
        if self.orphans:
            text += (
                f"; {len(self.orphans)} of them are of no version: a job is writing them, or was killed: stop all "
                "jobs, then --purge --nobody-writes"
            )
        return text


@dataclass(slots=True)
class Reader:
    """Reads files of one table; each once, for they never change."""

    database: Database
    suffix: str
    takedowns: Takedowns
    _known: dict[str, bool] = field(default_factory=dict)  # path -> whether it holds something

    def holds(self, path: str) -> bool:
        """Whether a file (a path below the table) holds an id, URL or SHA-256 that was taken down."""
        if path not in self._known:
            self._known[path] = any(self._mask(path, batch).any() for batch in self._batches(path))
        return self._known[path]

    def _mask(self, path: str, batch: pa.RecordBatch) -> np.ndarray:
        if not path.startswith("data/"):
            columns = [batch[name].to_pylist() for name in batch.schema.names]
            return np.array([self.takedowns.hit(kind, some).any() for some in columns for kind in COLUMNS], bool)
        return self.takedowns.rows(batch) if self.suffix == "" else self.takedowns.rejects(batch)

    def _batches(self, path: str) -> Iterator[pa.RecordBatch]:
        where = f"{self.database.path(self.suffix)}/{path}"
        options = storage_options(self.database.uri)
        with naming("read", where):
            schema = LanceFileReader(where, options).metadata().schema
            wanted = [f.name for f in schema if pa.types.is_string(f.type)]  # of an index: its values
            if path.startswith("data/"):
                wanted = [name for name in (COLUMNS if self.suffix == "" else _REJECTS) if name in schema.names]
                if self.suffix and len(wanted) < len(_REJECTS):
                    return
            if wanted:
                yield from LanceFileReader(where, options, wanted).read_all(batch_size=_BATCH).to_batches()


def survey(reader: Reader) -> Survey | None:
    """Look at every file of a table; None if there is no such table.

    Raises:
        TableError: a file cannot be read.
    """
    database, suffix = reader.database, reader.suffix
    dataset = database.open(suffix)
    if dataset is None:
        return None
    with naming("list the files of", database.path(suffix)):
        listed = {p for p in dataset.all_files().read_all()["path"].to_pylist() if _may_hold(p)}
        dataset.checkout_latest()  # after the listing: what was committed meanwhile is no orphan
        of: dict[int, set[str]] = {ref["version"]: set() for ref in dataset.version_refs()}
        for batch in dataset.tracked_files():
            for version, path in zip(batch["version"].to_pylist(), batch["path"].to_pylist(), strict=True):
                of.setdefault(version, set()).add(path)
    files = {path for path in listed.union(*of.values()) if _may_hold(path)}
    dirty = frozenset(path for path in sorted(files) if reader.holds(path))
    return Survey(database.path(suffix).rpartition("/")[2], len(files), dirty, of)


def _may_hold(path: str) -> bool:
    return path.startswith(("data/", "_indices/"))
