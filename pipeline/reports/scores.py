"""How well pictures and captions of a run's rows match: both scores' histograms, and the best and worst pairs.

At most a million rows are looked at, in fragments evenly spread over those that were written since the run began.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance.fragment import LanceFragment

from pipeline.database import Database, naming
from pipeline.fetch import Row
from pipeline.retrieval.hits import PLACE, SHOWN
from pipeline.table import Rows

ITC_EDGES = np.linspace(-1.0, 1.0, 401)
ITM_EDGES = np.linspace(0.0, 1.0, 51)
_MOST_ROWS = 1_000_000
_EXTREMES = 8  # pairs, of different pictures
_CANDIDATES = 64  # for them: captions of one picture often score alike
_SCORES = ["itm_score", "itc_score"]

Counts = npt.NDArray[np.int64]


@dataclass(slots=True)
class Scores:
    """What was found; rows of `best` and `worst` hold where their pictures lie, caption and scores."""

    rows: int = 0  # looked at
    itc: Counts = field(default_factory=lambda: np.zeros(len(ITC_EDGES) - 1, np.int64))
    itm: Counts = field(default_factory=lambda: np.zeros(len(ITM_EDGES) - 1, np.int64))
    best: list[Row] = field(default_factory=list)
    worst: list[Row] = field(default_factory=list)


def last_fragment(rows: Rows) -> int:
    """The highest number of a fragment, -1 if there is none; whatever is written later has a higher one."""
    return max((f.fragment_id for f in rows.dataset.get_fragments()), default=-1)


def scores(database: Database, run_id: str, after: int, most: int = _MOST_ROWS) -> Scores:
    """Look at a run's rows.

    Args:
        database: where the table is.
        run_id: of the run.
        after: `last_fragment` of the table as the run found it.
        most: rows to look at, but for the last fragment's.

    Raises:
        TableError: the table cannot be read.
    """
    found, dataset = Scores(), database.open()
    if dataset is None:
        return found
    best, worst = _Few(descending=True), _Few(descending=False)
    with naming("read", database.path()):
        for batch in _batches(dataset, run_id, _spread(dataset, after, most)):
            itm, itc = (batch[name].to_numpy(zero_copy_only=False) for name in _SCORES)
            found.rows += batch.num_rows
            found.itc += np.histogram(itc, ITC_EDGES)[0]
            found.itm += np.histogram(itm, ITM_EDGES)[0]
            for few in (best, worst):
                few.add(itm, itc, batch["_rowid"].to_numpy())
        most_shown = min(_EXTREMES, max(1, found.rows // 2))
        found.best, found.worst = (_distinct(dataset, few.rows, most_shown) for few in (best, worst))
    return found


def _spread(dataset: lance.LanceDataset, after: int, most: int) -> list[LanceFragment]:
    new = [f for f in dataset.get_fragments() if f.fragment_id > after]
    rows = sum(f.physical_rows for f in new)
    count = len(new) if rows <= most else max(1, len(new) * most // rows)
    return [new[i] for i in np.unique(np.linspace(0, len(new) - 1, count).round().astype(int))] if new else []


def _batches(dataset: lance.LanceDataset, run_id: str, fragments: list[LanceFragment]) -> Iterator[pa.RecordBatch]:
    if fragments:
        condition = f"run_id = '{run_id}'"
        yield from dataset.scanner(_SCORES, condition, fragments=fragments, with_row_id=True).to_batches()


class _Few:
    """The rows with the highest or lowest scores, ITM first and ITC among equals."""

    def __init__(self, *, descending: bool) -> None:
        self._sign = -1.0 if descending else 1.0
        self._kept: npt.NDArray[Any] = np.zeros((0, 2))
        self.rows: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

    def add(self, itm: npt.NDArray[Any], itc: npt.NDArray[Any], rows: npt.NDArray[np.uint64]) -> None:
        scored = np.concatenate([self._kept, np.column_stack([itm, itc]).astype(float)])
        rows = np.concatenate([self.rows, rows])
        order = np.lexsort((self._sign * scored[:, 1], self._sign * scored[:, 0]))[:_CANDIDATES]
        self._kept, self.rows = scored[order], rows[order]


def _distinct(dataset: lance.LanceDataset, rows: npt.NDArray[np.uint64], most: int) -> list[Row]:
    """The first rows of different pictures."""
    if not len(rows):
        return []
    columns = list(dict.fromkeys([*PLACE, *SHOWN, *_SCORES]))
    distinct: dict[str, Row] = {}
    for row in dataset._take_rows([int(row) for row in rows], columns=columns).to_pylist():
        distinct.setdefault(row["sha256"], row)
    return list(distinct.values())[:most]
