"""Whether a pair was taken down: takedowns as sets that readers, writers and checks can ask. No Lance here.

A takedown names an id (that pair), a URL (every pair with exactly that one) or a SHA-256 (every pair of that picture).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.samples import row_id

COLUMNS = ("id", "url", "sha256")
_DIGEST = np.dtype("S16")

Mask = npt.NDArray[np.bool_]
Digests = npt.NDArray[np.bytes_]


def _digest(column: str, value: str) -> bytes:
    return hashlib.blake2b(f"{column}\0{value}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Takedowns:
    """All takedowns at one version of their table: 16 bytes each, so that millions can go to every worker."""

    version: int = 0  # 0 where there is no such table
    digests: Digests = field(default_factory=lambda: np.empty(0, _DIGEST))  # sorted

    def __len__(self) -> int:
        return len(self.digests)

    def hit(self, column: str, values: Sequence[str | None]) -> Mask:
        """Which of a column's values were taken down."""
        if not len(self.digests) or not len(values):
            return np.zeros(len(values), bool)
        wanted = np.array([b"" if value is None else _digest(column, value) for value in values], _DIGEST)
        at = np.minimum(np.searchsorted(self.digests, wanted), len(self.digests) - 1)
        found: Mask = self.digests[at] == wanted
        return found

    def rows(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Which rows were taken down, by those of their columns that tell."""
        found = np.zeros(rows.num_rows, bool)
        for column in COLUMNS:
            if len(self.digests) and column in rows.schema.names:
                found |= self.hit(column, rows[column].to_pylist())
        return found

    def rejects(self, rows: pa.Table | pa.RecordBatch) -> Mask:
        """Which rejects were taken down; `rows` has what makes their ids, and the URL."""
        if not len(self.digests):
            return np.zeros(rows.num_rows, bool)
        names = zip(*(rows[c].to_pylist() for c in ("dataset", "shard", "key", "caption_index")), strict=True)
        ids = [None if None in name else row_id(*name) for name in names]
        return self.hit("id", ids) | self.hit("url", rows["url"].to_pylist())


@dataclass(frozen=True, slots=True)
class Barred:
    """The takedowns as the pairs of one dataset meet them."""

    dataset: str = ""
    takedowns: Takedowns = field(default_factory=Takedowns)

    def captions(self, shard: str, sample: tuple[str, str | None, str | None], indexes: Sequence[int]) -> Mask:
        """Which captions of a sample (its key, URL and SHA-256) were taken down."""
        key, url, sha256 = sample
        if not len(self.takedowns):
            return np.zeros(len(indexes), bool)
        if self.takedowns.hit("url", [url])[0] or self.takedowns.hit("sha256", [sha256])[0]:
            return np.ones(len(indexes), bool)
        return self.takedowns.hit("id", [row_id(self.dataset, shard, key, index) for index in indexes])


def takedowns_of(values: Mapping[str, Iterable[str]], version: int = 0) -> Takedowns:
    """Of values by column."""
    digests = np.array([_digest(column, v) for column, some in values.items() for v in some], _DIGEST)
    return Takedowns(version, np.unique(digests))
