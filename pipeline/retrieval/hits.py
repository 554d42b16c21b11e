"""What a search found: an Arrow table with a face for notebooks, and the way to its pictures."""

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.database import Database
from pipeline.errors import FetchError
from pipeline.exports.flat import plain_rows
from pipeline.fetch import Answer, Row, fetch_images
from pipeline.plain import plain
from pipeline.retrieval.nearest import DISTANCE, RELEVANCE, SCORE
from pipeline.roots import source_roots
from pipeline.tabular import Tabular

ITM_QUERY, FETCH_ERROR = "itm_query", "fetch_error"
SCORES = (DISTANCE, SCORE, RELEVANCE, ITM_QUERY, FETCH_ERROR)  # what a search adds to the table's columns
PLACE = ("dataset", "shard", "key", "sha256", "image_offset", "image_length", "row_group", "row_in_group")
SHOWN = ("caption", "key", "shard", "width", "height")
_SHOWN_AS = {ITM_QUERY: "itm", RELEVANCE: "rrf", DISTANCE: "cosine", SCORE: "bm25"}  # the deciding one first
_IN_REPR = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit as it is shown; `caption` and the names are safe to print, `scores` by name, the deciding one first."""

    rank: int
    scores: dict[str, float | None]
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
            scores={shown: _score(name, row[name]) for name, shown in _SHOWN_AS.items() if name in row},
            caption=plain(row["caption"] or ""),
            key=plain(row["key"] or "", 80),
            shard=plain(row["shard"] or "", 120),
            size=f"{row['width']}×{row['height']}",
            error=plain(row.get(FETCH_ERROR) or ""),
        )


@dataclass(frozen=True, slots=True, repr=False)
class Hits(Tabular):
    """Hits, the best first: the columns of `<table>` but its vectors, or those selected, and how well they fit.

    `_distance` (cosine) of a search by vector, `_score` (BM25) of one by full text, both and `_relevance_score` of a
    hybrid one. After a rerank also `itm_query`, the probability that the picture matches the words, and
    `fetch_error`, which says why a picture could not be looked at (null where it was).
    """

    table: pa.Table
    title: str  # what was asked
    detail: str  # and how
    database: Database
    notes: tuple[str, ...] = ()  # what the user should know of the answer
    asked: bytes = field(default=b"")  # the picture that was asked with
    whole: pa.Table | None = None  # what shows and fetches the hits, where `table` has selected columns

    def to_json(self) -> dict[str, Any]:
        """As one object for machines, the best hit first; numbers that JSON does not know are null."""
        return {
            "query": self.title,
            "detail": self.detail,
            "notes": list(self.notes),
            "hits": plain_rows(self.table),
        }

    def images(self) -> list[Answer]:
        """The pictures' bytes, fetched in place and checked; a FetchError stands where one cannot be had."""
        rows = self._whole.select(PLACE).to_pylist()
        return fetch_by_dataset(rows, source_roots(self.database)) if rows else []

    def shown(self) -> list[Hit]:
        """As they are shown to people."""
        whole = self._whole
        columns = [name for name in (*SHOWN, *SCORES) if name in whole.column_names]
        return [Hit.of(i, row) for i, row in enumerate(whole.select(columns).to_pylist(), start=1)]

    @property
    def _whole(self) -> pa.Table:
        return self.table if self.whole is None else self.whole

    def __repr__(self) -> str:
        found = self.shown()
        lines = [f"{len(self)} hits for {plain(self.title, 80)!r}" + (f" ({self.detail})" if self.detail else "")]
        for hit in found[:_IN_REPR]:
            scores = "  ".join(f"{name} {value:.3f}" for name, value in hit.scores.items() if value is not None)
            lines.append(f"{hit.rank:>4}  {scores}  {plain(hit.caption, 70)}  [{hit.shard} {hit.key}]")
        return "\n".join([*lines, *(["   …"] if len(found) > _IN_REPR else [])])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        names, found = ("caption", "key", "shard", "size"), self.shown()
        scores = [*found[0].scores] if found else []
        head = "".join(f"<th>{name}</th>" for name in ("rank", *scores, *names))
        cells = ((hit.rank, *hit.scores.values(), *(getattr(hit, name) for name in names)) for hit in found)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
        title = html.escape(plain(self.title, 200))
        return f"<p>{len(self)} hits for <b>{title}</b></p><table><tr>{head}</tr>{body}</table>"


def _score(name: str, value: float | None) -> float | None:
    return 1 - value if name == DISTANCE and value is not None else value


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
