"""The searches that a statement can stand in its FROM, and what their arguments mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datafusion.expr import Expr

from pipeline.database import Database
from pipeline.errors import ConfigError, InputError
from pipeline.plain import quoted
from pipeline.query import Query, QueryModel, read_picture, search
from pipeline.retrieval.hits import FETCH_ERROR, ITM_QUERY, SCORES
from pipeline.retrieval.nearest import DISTANCE, RELEVANCE, SCORE
from pipeline.retrieval.where import check_where
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.sql import wording
from pipeline.sql.conditions import joined

MOST = 8192  # hits of one search: a batch of DataFusion's, so that they keep their order
MOST_LOOKED_AT = 1000  # pictures of one rerank
_USUAL = 10


@dataclass(frozen=True, slots=True)
class Function:
    """A search that gives a table: the stored columns but the vectors, and how well each row fits."""

    name: str
    subject: str  # what its first argument is
    example: str
    scores: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    most: int = MOST

    @property
    def usage(self) -> str:
        """How it is called."""
        return f"{self.name}('{self.example}', k, 'filter', 'column')"


FUNCTIONS = {
    function.name: function
    for function in (
        Function("search", "words", "words", (DISTANCE,)),
        Function("search_image", "image", "path or URL", (DISTANCE,)),
        Function("similar", "like", "id", (DISTANCE,)),
        Function("fulltext", "words", "words", (SCORE,), {"mode": "fulltext"}),
        Function("hybrid", "words", "words", (DISTANCE, SCORE, RELEVANCE), {"mode": "hybrid"}),
        Function("rerank", "words", "words", (DISTANCE, ITM_QUERY, FETCH_ERROR), {"rerank": "itm"}, MOST_LOOKED_AT),
    )
}


class CallError(ConfigError):
    """A search was called with arguments that it does not take."""

    def __init__(self, function: str, why: str, subject: str = "") -> None:
        super().__init__(function, why, subject)
        self.function = function
        self.why = why
        self.subject = subject  # tells which of several calls it is

    def __str__(self) -> str:
        return f"{self.function} {self.why}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a search in a statement, its arguments checked."""

    function: Function
    subject: str
    k: int = _USUAL
    where: str = ""
    column: str = "image"

    @classmethod
    def of(cls, function: Function, arguments: Sequence[Expr]) -> "Call":
        """From the arguments as they stand in the statement.

        Raises:
            CallError: saying which are taken.
        """
        values = [_value(function, argument) for argument in arguments]
        if not values or len(values) > 4:
            raise CallError(function.name, f"takes 1 to 4 arguments, not {len(values)}: {function.usage}")
        call = cls(function, *values)
        call._check()
        return call

    def _check(self) -> None:
        values = (self.subject, self.where, self.column)
        for value, what in zip(values, (self.function.example, "filter", "column"), strict=True):
            if not isinstance(value, str):
                raise self._refused(f"takes its {what} as a text, not {value!r}: {self.function.usage}")
        if not self.subject.strip():
            raise self._refused(f"has nothing to search for: {self.function.usage}")
        if type(self.k) is not int or not 1 <= self.k <= self.function.most:
            raise self._refused(f"takes as k a whole number from 1 to {self.function.most}, not {self.k!r}")
        if self.column not in EMBEDDING_COLUMNS:
            raise self._refused(f"takes as column {' or '.join(EMBEDDING_COLUMNS)}, not {self.column!r}")

    def _refused(self, why: str) -> CallError:
        return CallError(self.function.name, why, self.subject if isinstance(self.subject, str) else "")

    def schema(self, stored: pa.Schema) -> pa.Schema:
        """What it gives of a table with these columns."""
        own = [f for f in stored if not pa.types.is_fixed_size_list(f.type) and f.name not in SCORES]
        added = [pa.field(s, pa.string() if s == FETCH_ERROR else pa.float32()) for s in self.function.scores]
        return pa.schema([pa.field(f.name, f.type) for f in own] + added)

    def check_where(self, dataset: Any) -> None:
        """Refuse a filter that Lance cannot take."""
        if self.where.strip():
            try:
                check_where(dataset, self.where)
            except ConfigError as error:
                raise self._refused(f"cannot filter: {_reason(error)}") from error

    def filter(self, conditions: Sequence[str]) -> str:
        """Its own filter and conditions besides, as one; empty if there are none."""
        both = [*([f"({self.where}\n)"] if self.where.strip() else []), *conditions]
        return joined("AND", both) if both else ""

    def answered(
        self, database: Database, dataset: Any, conditions: Sequence[str], model: Callable[[], QueryModel]
    ) -> tuple[pa.Table, tuple[str, ...]]:
        """Make the search.

        Args:
            database: whose table is searched.
            dataset: the table, a `lance.LanceDataset`; at its version.
            conditions: what rows must meet besides the call's own filter.
            model: what words and pictures are embedded with.

        Returns:
            The hits, the best first, and what there is to say of them.
        """
        schema = self.schema(dataset.schema)
        if dataset.count_rows() == 0:
            return schema.empty_table(), ()
        asked: dict[str, Any] = {"limit": self.k, "version": dataset.version, **self.function.options}
        asked["where"] = self.filter(conditions)
        if self.function.options.get("mode") != "fulltext":
            asked["column"] = self.column
        try:
            asked[self.function.subject] = (
                read_picture(self.subject) if self.function.subject == "image" else self.subject
            )
            hits = search(database, Query(**asked), model())
        except ConfigError as error:
            raise self._refused(f"cannot be made: {_reason(error)}") from error
        except InputError as error:
            why = str(error).removeprefix("--image ").partition(": it begins with")[0]  # a file that is no picture
            raise InputError(f"{self}: {why}") from error
        return hits.table.select(schema.names).cast(schema), hits.notes

    def __str__(self) -> str:
        """As it may be written."""
        words = self.subject if len(self.subject) <= 60 else self.subject[:59] + "…"
        texts = [quoted(words), str(self.k)]
        if self.where or self.column != "image":
            texts.append(quoted(self.where))
        return f"{self.function.name}({', '.join(texts + ([quoted(self.column)] if self.column != 'image' else []))})"


def searchable(dataset: Any, condition: str) -> bool:
    """Whether Lance takes a condition, or there is none."""
    try:
        if condition:
            check_where(dataset, condition)
    except ConfigError:
        return False
    return True


def _value(function: Function, argument: Expr) -> Any:
    if argument.variant_name() != "Literal":
        raise CallError(
            function.name, f"takes its arguments as they are written, not from columns or questions: {function.usage}"
        )
    return argument.python_value().as_py()


def _reason(error: ConfigError) -> str:
    return wording.reason(str(error).rpartition(" is not valid: ")[2])
