"""What a search found: an Arrow table with a face for notebooks, and the way to its pictures."""

import html
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.database import Database
from pipeline.errors import FetchError
from pipeline.fetch import Answer, Row, fetch_images
from pipeline.plain import plain
from pipeline.roots import source_roots

if TYPE_CHECKING:
    import pandas as pd

DISTANCE, ITM_QUERY, FETCH_ERROR = "_distance", "itm_query", "fetch_error"
PLACE = ("dataset", "shard", "key", "sha256", "image_offset", "image_length", "row_group", "row_in_group")
_IN_REPR = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit as it is shown; `caption` and the names are safe to print, `itm` is None without a rerank."""

    rank: int
    cosine: float
    itm: float | None
    caption: str
    key: str
    shard: str
    size: str
    error: str

    @classmethod
    def of(cls, rank: int, row: Row) -> "Hit":
        """From a row of the hits' table."""
        return cls(
            rank=rank,
            cosine=1 - row[DISTANCE],
            itm=row.get(ITM_QUERY),
            caption=plain(row["caption"] or ""),
            key=plain(row["key"] or "", 80),
            shard=plain(row["shard"] or "", 120),
            size=f"{row['width']}×{row['height']}",
            error=plain(row.get(FETCH_ERROR) or ""),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Hits:
    """Hits, the best first: the columns of `<table>` but its vectors, and `_distance` (cosine).

    After a rerank also `itm_query`, the probability that the picture matches the words, and
    `fetch_error`, which says why a picture could not be looked at (null where it was).
    """

    table: pa.Table
    title: str  # what was asked
    detail: str  # and how
    database: Database
    notes: tuple[str, ...] = ()  # what the user should know of the answer
    asked: bytes = field(default=b"")  # the picture that was asked with

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def to_pandas(self) -> "pd.DataFrame":
        """As a pandas DataFrame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_list(self) -> list[dict[str, Any]]:
        """As one dict a hit."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows

    def to_json(self) -> dict[str, Any]:
        """As one object for machines, the best hit first; numbers that JSON does not know are null."""
        hits = [{name: _jsonable(value) for name, value in row.items()} for row in self.to_list()]
        return {"query": self.title, "detail": self.detail, "notes": list(self.notes), "hits": hits}

    def images(self) -> list[Answer]:
        """The pictures' bytes, fetched in place and checked; a FetchError stands where one cannot be had."""
        return fetch_by_dataset(self.table.select(PLACE).to_pylist(), source_roots(self.database)) if len(self) else []

    def shown(self) -> list[Hit]:
        """As they are shown to people."""
        return [Hit.of(i, row) for i, row in enumerate(self.to_list(), start=1)]

    def __repr__(self) -> str:
        found = self.shown()
        lines = [f"{len(self)} hits for {plain(self.title, 80)!r}" + (f" ({self.detail})" if self.detail else "")]
        for hit in found[:_IN_REPR]:
            itm = "" if hit.itm is None else f"  itm {hit.itm:.3f}"
            lines.append(f"{hit.rank:>4}  {hit.cosine:.3f}{itm}  {plain(hit.caption, 70)}  [{hit.shard} {hit.key}]")
        return "\n".join([*lines, *(["   …"] if len(found) > _IN_REPR else [])])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        names = ("rank", "cosine", "itm", "caption", "key", "shard", "size")
        head = "".join(f"<th>{name}</th>" for name in names)
        cells = ((_cell(getattr(hit, name)) for name in names) for hit in self.shown())
        body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        title = html.escape(plain(self.title, 200))
        return f"<p>{len(self)} hits for <b>{title}</b></p><table><tr>{head}</tr>{body}</table>"


def _jsonable(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    return f'<td dir="auto">{html.escape(text)}</td>'


def fetch_by_dataset(rows: Sequence[Row], roots: Mapping[str, str]) -> list[Answer]:
    """The pictures of rows of several datasets, in their order."""
    mine: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        mine[row["dataset"]].append(i)
    answers: list[Answer] = [FetchError("not fetched")] * len(rows)
    for dataset, indexes in mine.items():
        if dataset not in roots:
            unknown = FetchError(f"the ledger does not tell where the shards of dataset {dataset} lie")
            found: list[Answer] = [unknown] * len(indexes)
        else:
            found = fetch_images([rows[i] for i in indexes], roots[dataset])
        for i, answer in zip(indexes, found, strict=True):
            answers[i] = answer
    return answers
