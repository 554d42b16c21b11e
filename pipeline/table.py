"""`<table>`: the embedded pairs. Its commits carry the slices that they bring, so its transactions are the log.

Runs commit to `<table>` here and nowhere else; how a commit is compare-and-swap is told in `pipeline.database`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import lance
import pyarrow as pa

from pipeline.config import Contract, Tagging
from pipeline.contract import Layout, contract_of, require_columns, require_contract, require_tags
from pipeline.database import Database, naming
from pipeline.errors import CommitConflictError, TableError
from pipeline.plain import quoted
from pipeline.records import SLICES_PROPERTY, SliceRecord, carried
from pipeline.removal import Removal
from pipeline.schema import tagging_of
from pipeline.stores.retry import patiently


class Rows:
    """`<table>` at one version."""

    def __init__(self, database: Database, dataset: lance.LanceDataset) -> None:
        self._database = database
        self.dataset = dataset

    @classmethod
    def open(cls, database: Database) -> "Rows | None":
        """The latest version; None if there is no such table yet."""
        dataset = database.open()
        return None if dataset is None else cls(database, dataset)

    @property
    def version(self) -> int:
        """The table's version."""
        version: int = self.dataset.version
        return version

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self.dataset.schema

    @property
    def contract(self) -> Contract:
        """The embedding contract that the table was made with."""
        return contract_of(self._database.path(), self.dataset.schema)

    def check(self, layout: Layout) -> None:
        """Refuse another contract, other vectors, or columns that the table lacks.

        Raises:
            ContractError: showing both.
        """
        where = self._database.path()
        require_contract(where, self.contract, layout.contract)
        require_tags(where, self.dataset.schema, layout.schema)
        require_columns(where, self.dataset.schema, layout.schema)

    def lacks(self, layout: Layout) -> list[pa.Field]:
        """Columns of the layout that are to be added: any but vectors."""
        known = set(self.schema.names)
        return [f for f in layout.schema if f.name not in known and not pa.types.is_fixed_size_list(f.type)]

    def check_less(self, layout: Layout, new: Sequence[pa.Field]) -> None:
        """As `check`, but for columns that are still to be added."""
        self.check(replace(layout, schema=pa.schema([f for f in layout.schema if f not in new])))

    def commits_since(self, version: int) -> Iterator[tuple[int, list[SliceRecord]]]:
        """Versions after `version` that brought slices, each with the records it carried.

        Raises:
            VersionGoneError: a version was cleaned up, so nobody knows what it brought.
            TableError: the store did not say.
        """
        for later in range(version + 1, self.version + 1):
            value = self._database.properties("", self.dataset, later).get(SLICES_PROPERTY)
            if value:
                yield later, list(carried(value))


def open_or_create(database: Database, layout: Layout) -> Rows:
    """The table, made without rows if it is not there, with all columns of the layout.

    Raises:
        ContractError: it is of another contract, or has a column of another type.
    """
    made = layout.made_at(database.absolute().uri, database.table)
    rows = Rows(database, database.create("", made))
    for attempt in patiently(CommitConflictError):
        with attempt:
            rows = latest(database)
            new = rows.lacks(layout)
            rows.check_less(layout, new)
            if new:
                with naming("add columns to", database.path()):
                    rows.dataset.add_columns(new)
                rows = latest(database)
    return rows


def latest(database: Database) -> Rows:
    """The latest version of a table that must be there.

    Raises:
        TableError: it is not.
    """
    rows = Rows.open(database)
    if rows is None:
        raise TableError(
            f"{database.shown} was removed while it was in use: end what removes it, and run the same command"
        )
    return rows


def tagging(database: Database) -> Tagging | None:
    """What the table's tags were asked for; None if it has none, or there is no table."""
    rows = Rows.open(database)
    return None if rows is None else tagging_of(rows.schema)


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit brings: fragments, and the slices they are of; of a replaced shard, the old rows go."""

    fragments: Sequence[str]
    properties: Mapping[str, str]
    dataset: str
    replaced: Sequence[str] = field(default=())  # paths of shards


def commit(database: Database, base: Rows, layout: Layout, change: Change) -> Rows:
    """Commit to `<table>` on top of exactly `base`; raises as `Database.swap`."""
    of_values = partial(of_shards, change.dataset)
    without = Removal(of_values(change.replaced), "shard", of_values) if change.replaced else None
    dataset = database.swap("", base.dataset, layout.with_metadata, change.fragments, change.properties, without)
    return Rows(database, dataset)


def of_shards(dataset: str, shards: Sequence[str]) -> str:
    """An SQL condition for all rows of some shards."""
    return f"dataset = {quoted(dataset)} AND shard IN ({', '.join(map(quoted, shards))})"
