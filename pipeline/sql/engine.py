"""Ask with SQL: a statement -> its searches, each filtered beforehand by what its WHERE says -> rows.

statement -> survey (nothing is read) -> searches -> plan with their answers -> batches, within the limits
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from pipeline.database import Database
from pipeline.errors import ConfigError
from pipeline.plain import shortened
from pipeline.query import QueryModel
from pipeline.sql import wording
from pipeline.sql.answers import Answer, Batches
from pipeline.sql.functions import Call, searchable
from pipeline.sql.hoisting import Found
from pipeline.sql.limits import Limits, Timed
from pipeline.sql.mistakes import at_its_place
from pipeline.sql.session import function_names, planned, survey
from pipeline.sql.tables import Tables
from pipeline.sql.tokens import heaviness

_WORDS = 1000  # and signs: some 10,000 in a row would end the process
_TOLD = 5  # conditions that were not asked before a search
_AFTER = "is applied after the search: its third argument is a filter before it"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL, and what it is asked of."""

    text: str
    version: int | str | None = None  # of the rows: a number or a tag
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        heavy = heaviness(self.text)
        if heavy > _WORDS:
            raise ConfigError(
                f"the SQL has {heavy} words and signs beside its literals, {_WORDS} are allowed: use IN for long lists"
            )


@dataclass(frozen=True, slots=True)
class _Search:
    """A search of the statement, and what it is asked before it is made."""

    call: Call
    conditions: tuple[str, ...]
    notes: tuple[str, ...]  # on what it is not

    @classmethod
    def of(cls, call: Call, found: Found, tables: Tables) -> "_Search":
        conditions = list(found.conditions)
        if not searchable(tables.samples, call.filter(conditions)):
            conditions = [c for c in conditions if searchable(tables.samples, c)]
        while conditions and not searchable(tables.samples, call.filter(conditions)):
            conditions.pop()  # they are more than Lance takes at once
        late = [*found.left, *(c for c in found.conditions if c not in conditions)]
        late += ["WHERE about a search within an expression"] if found.unseen else []
        late[_TOLD:] = [f"{len(late) - _TOLD} conditions more"] if len(late) > _TOLD else []
        return cls(call, tuple(conditions), tuple(f"{shortened(c, 200)} {_AFTER}" for c in late))

    @property
    def lines(self) -> str:
        """As EXPLAIN shows it."""
        where = f"\n  before it: {' AND '.join(self.conditions)}" if self.conditions else ""
        return f"{self.call}{where}" + "".join(f"\n  {note}" for note in self.notes)


def ask(database: Database, statement: Statement, model: Callable[[], QueryModel]) -> Answer:
    """What a statement gives, as one table; see `reading`."""
    with reading(database, statement, model) as batches:
        return batches.whole()


@contextmanager
def reading(database: Database, statement: Statement, model: Callable[[], QueryModel]) -> Iterator[Batches]:
    """What a statement gives, batch by batch, so that it need not fit in memory.

    Args:
        database: whose table and companions are read; nothing else can be.
        statement: what is asked.
        model: called if the statement holds a search.

    Raises:
        ConfigError: the SQL is not valid; shows where.
        LimitError: it takes too long, or too much memory.
        TableError, ContractError, InputError: as `pipeline.query.search`.
    """
    tables, limits = Tables.open(database, statement.version), statement.limits
    placing = partial(
        at_its_place, statement.text, tables.columns, partial(function_names, tables, limits), limits.too_large
    )
    with Timed(limits) as timed:
        with placing():
            asked = timed.run(partial(survey, statement.text, tables, limits))
            searches = [_Search.of(*both, tables) for both in zip(asked.calls, asked.found, strict=True)]
            notes = [f"{search.call}: {note}" for search in searches for note in search.notes]
            answers = dict[int, pa.Table]()
            for number, search in enumerate(searches if asked.runs else ()):
                timed.check()
                answers[number], said = search.call.answered(database, tables.samples, search.conditions, model)
                notes += said
            frame = timed.run(partial(planned, statement.text, tables, limits, answers))
            schema = _distinct(frame.schema())
        rows = _rows(timed.batches(frame), schema, searches if asked.explains else (), placing)
        try:
            yield Batches(schema, tuple(dict.fromkeys(notes)), rows, limits)
        finally:
            rows.close()


def _rows(
    batches: Iterator[pa.RecordBatch],
    schema: pa.Schema,
    explained: Sequence[_Search],
    placing: Callable[[], AbstractContextManager[None]],
) -> Generator[pa.RecordBatch, None, None]:
    """The batches under names that differ; before those of an EXPLAIN, what its searches are asked."""
    for number, search in enumerate(explained, start=1):
        yield pa.record_batch([[f"search #{number}"], [search.lines]], schema=schema)
    with placing():
        for batch in batches:
            columns = batch.columns
            if explained:
                columns = [pa.array([wording.plan(text) for text in column.to_pylist()]) for column in columns]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _distinct(schema: pa.Schema) -> pa.Schema:
    """A schema in which no two columns have one name: a, a -> a, a_2."""
    names = list[str]()
    for one in schema:
        name, number = one.name, 1
        while name in names:
            number += 1
            name = f"{one.name}_{number}"
        names.append(name)
    return pa.schema([one.with_name(name) for one, name in zip(schema, names, strict=True)])
