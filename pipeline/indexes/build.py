"""Vector indexes on one table: built in this process, folded, dropped, described; a commit of ours is never in the way.

An index commit passes over commits that bring rows, and they over it; rows that came meanwhile are found without it.
Only a compaction that ends while an index is built takes away what it was built on, and it is built again.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import lance
from lance.fragment import LanceFragment

from pipeline.database import Database, naming
from pipeline.errors import CommitConflictError, TableError
from pipeline.indexes.kinds import Choice
from pipeline.indexes.learnt import Learnt, assigned, learn

# A million rows' statistics would hold megabytes of centres; read when they are asked for.
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")

_TRIES = 3  # of a build beside compactions
_MANY = 4  # the rows of the main part over those of a younger one, below which the two are made one
_CONFLICT = "Retryable commit conflict"


def described(dataset: lance.LanceDataset, column: str) -> Any | None:
    """What Lance knows of the index on a column: `name`, `index_type`, `segments`, `total_size_bytes`; None if none."""
    return next((index for index in dataset.describe_indices() if list(index.field_names) == [column]), None)


def build(database: Database, column: str, choice: Choice) -> None:
    """Build an index on a column of vectors, in place of the one that is there.

    Raises:
        TableError: it cannot be read or written.
    """
    learnt = learn(database.require(), column, choice)
    again(database, lambda dataset: commit(dataset, column, [part(dataset, column, learnt, dataset.get_fragments())]))


def part(dataset: lance.LanceDataset, column: str, learnt: Learnt, fragments: Sequence[LanceFragment]) -> Any:
    """What an index on a column has of some fragments, for `commit`."""
    with assigned(dataset, column, learnt, fragments) as partitions:
        return dataset.create_index_uncommitted(
            column,
            learnt.choice.kind.upper(),
            named(dataset, column),
            replace=True,
            fragment_ids=[fragment.fragment_id for fragment in fragments],
            **learnt.settings,
            **partitions,
        )


def commit(dataset: lance.LanceDataset, column: str, parts: Sequence[Any]) -> None:
    """Make an index of its parts, in place of the one that is there; they were built on exactly this version."""
    whole = parts[0] if len(parts) == 1 else dataset.merge_existing_index_segments(list(parts))
    dataset.commit_existing_index_segments(named(dataset, column), column, [whole])


def named(dataset: lance.LanceDataset, column: str) -> str:
    """The name of the index on a column: that of the one that is there, so that it is replaced."""
    there = described(dataset, column)
    return there.name if there else f"{column}_idx"


def drop(database: Database, column: str) -> None:
    """Remove the index on a column if there is one."""
    dataset = database.require()
    there = described(dataset, column)
    if there is not None:
        with naming("remove an index of", database.path()):
            dataset.drop_index(there.name)


def fold(database: Database, column: str) -> None:
    """Bring rows that came since into the index on a column; scalar ones too.

    New rows become a part of their own, or go into the youngest; once that is no longer small beside the first, all
    are made one. (Left to itself Lance would also join partitions until an index of a few thousand rows has only one.)
    """

    def once(dataset: lance.LanceDataset) -> None:
        there = described(dataset, column)
        if there is None:
            return
        statistics = dataset.stats.index_stats(there.name)
        options = {"num_indices_to_merge": _merged(statistics)} if "IVF" in there.index_type else {}
        dataset.optimize.optimize_indices(index_names=[there.name], **options)

    again(database, once)


def again(database: Database, work: Callable[[lance.LanceDataset], None]) -> None:
    """Do something to the latest version, and once more if a compaction or another job's index came between."""
    for attempt in range(_TRIES):
        try:
            with naming("index", database.path()):
                work(database.require())
            return
        except TableError as error:
            conflict = isinstance(error, CommitConflictError) or _CONFLICT in str(error.__cause__)
            if attempt + 1 == _TRIES or not conflict:
                raise


def _merged(statistics: dict[str, Any]) -> int:
    """How many of the youngest parts the new rows are brought together with."""
    sizes = sorted(statistics["num_indexed_rows_per_delta"], reverse=True)
    young = statistics["num_unindexed_rows"] + sum(sizes[1:])
    return len(sizes) if young * _MANY >= sizes[0] else min(1, len(sizes) - 1)
