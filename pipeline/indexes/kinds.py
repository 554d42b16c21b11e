"""Which index fits a table: its kind and its partitions, chosen from the rows or named by the user."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError, TableError

EXACT_BELOW = 50_000  # rows: every one is compared in about 20 ms
LEAST = 256  # rows: with fewer an index has nothing to learn from
_BY_RAY = 1_000_000  # rows from which a build is worth a cluster
_MOST = 16_384  # partitions: learning the centres takes their number squared
_GRAPH = 1_000_000  # rows of one HNSW graph
KINDS = (
    "auto",
    "exact",
    "ivf_flat",
    "ivf_pq",
    "ivf_sq",
    "ivf_rq",
    "ivf_hnsw_flat",
    "ivf_hnsw_pq",
    "ivf_hnsw_sq",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An index to build, or `exact` for none, and why."""

    kind: str
    partitions: int
    why: str

    @property
    def line(self) -> str:
        """As a person reads it."""
        if self.kind == "exact":
            return f"exact search without an index: {self.why}"
        return f"{self.kind} with {self.partitions} partitions: {self.why}"

    @property
    def exact(self) -> bool:
        """Whether there is nothing to build."""
        return self.kind == "exact"

    def settings(self, dimension: int) -> dict[str, Any]:
        """What Lance is told besides the partitions."""
        if "pq" in self.kind:
            return {"num_sub_vectors": _sub_vectors(dimension)}
        return {"num_bits": 1} if "rq" in self.kind else {}


def choose(kind: str, partitions: int | None, rows: int, dimension: int) -> Choice:
    """The index for so many rows.

    Args:
        kind: one of `KINDS`.
        partitions: as the user has named them, or None.
        rows: with a vector.
        dimension: of the vectors.

    Raises:
        ConfigError: an unknown kind, or partitions that cannot be.
        TableError: too few rows for the kind that was named.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind {kind!r} is not valid: allowed is {', '.join(KINDS)}")
    if partitions is not None and partitions < 1:
        raise ConfigError(f"--partitions {partitions} is not valid: allowed is a number from 1 to the table's rows")
    if kind == "auto":
        chosen, why = _fitting(rows, dimension)
    else:
        chosen, why = kind, "as asked"
    if chosen == "exact":
        return Choice(chosen, 0, why)
    if rows < LEAST:
        raise TableError(f"--kind {kind}: the table has {rows} rows, an index needs {LEAST}: use --kind exact")
    if partitions is not None and partitions > rows:
        raise ConfigError(f"--partitions {partitions} is not valid: the table has {rows} rows")
    if chosen == "ivf_rq" and dimension % 8:
        raise ConfigError(f"--kind {chosen} needs vectors whose width is a multiple of 8, not {dimension}: use ivf_sq")
    return Choice(chosen, partitions or _partitions(chosen, rows), why)


def worth_a_cluster(rows: int) -> bool:
    """Whether a table is big enough to be indexed by several workers."""
    return rows >= _BY_RAY


def _fitting(rows: int, dimension: int) -> tuple[str, str]:
    if rows < EXACT_BELOW:
        return "exact", f"{rows:,} rows are fewer than {EXACT_BELOW:,}, and comparing each is quick"
    if dimension % 8:
        return "ivf_sq", f"{rows:,} rows of a width that is no multiple of 8: a byte a dimension"
    return "ivf_rq", f"{rows:,} rows: one bit a dimension is the smallest and the quickest to build, refined exactly"


def _partitions(kind: str, rows: int) -> int:
    """The power of two next to twice the square root; graphs are as large as they may be."""
    if "hnsw" in kind:
        return max(1, round(rows / _GRAPH))
    return min(_MOST, int(2 ** round(math.log2(2 * math.sqrt(rows)))))


def _sub_vectors(dimension: int) -> int:
    """Of 8 dimensions each, or of the largest number below that divides the width."""
    return dimension // next(width for width in range(8, 0, -1) if dimension % width == 0)
