"""Indexes of `<table>`: what the last build measured, and how a search uses it."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import lance

from pipeline.database import Database, naming

_KEY = "bridgelake.tuned."  # and the column: in the table's configuration
FEW = 1000  # rows that a filter keeps, up to which comparing each is quicker than any index, and finds all
_MOST = 0.9  # of the rows: a filter that keeps more is as good as none
ONE_IN = 100  # rows: the filter that a build measures with keeps one
_POWER = 0.3  # by which the partitions grow as a filter keeps fewer rows (bench/README.md)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search asks of an index."""

    nprobes: int  # partitions that are looked into
    refine: int  # so many times the wanted rows are compared exactly
    filtered: int | None = None  # partitions, where a filter keeps one row in a hundred; None: not measured

    def probes(self, kept: float) -> int:
        """Partitions for a filter that keeps this share of the rows: the fewer, the further apart they lie."""
        if kept > _MOST:
            return self.nprobes
        if self.filtered is None:
            return math.ceil(self.nprobes * math.pow(max(kept, 1e-9), -_POWER))
        return math.ceil(self.filtered * math.pow(max(1.0, 1 / (ONE_IN * max(kept, 1e-9))), _POWER))


def tuned(dataset: lance.LanceDataset, column: str) -> Tuned | None:
    """What the last build of this column's index found to be enough; None without an index.

    Args:
        dataset: `<table>`.
        column: image, text or cross.
    """
    kept = dataset.config().get(_KEY + column)
    return Tuned(**json.loads(kept)) if kept else None


def way(dataset: lance.LanceDataset, column: str, condition: str = "") -> dict[str, Any]:
    """How Lance is to be asked for the nearest rows by `column` (image, text or cross), as `nearest` takes it.

    Empty without an index. Where a filter keeps few rows, each of them is compared.
    """
    found = tuned(dataset, column)
    if found is None:
        return {}
    if not condition:
        return {"nprobes": found.nprobes, "refine_factor": found.refine}
    kept = dataset.count_rows(condition)
    if kept <= FEW:
        return {"use_index": False}
    return {"nprobes": found.probes(kept / dataset.count_rows()), "refine_factor": found.refine}


def keep_tuned(database: Database, column: str, found: Tuned | None) -> None:
    """Keep what a build measured in the table's configuration; None forgets it."""
    with naming("keep what was measured of", database.path()):
        dataset = database.open()
        if dataset is None:
            return
        if found is not None:
            dataset.update_config({_KEY + column: json.dumps(asdict(found))})
        elif _KEY + column in dataset.config():
            dataset.delete_config_keys([_KEY + column])
