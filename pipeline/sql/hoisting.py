"""Which parts of a statement's WHEREs can filter a search's rows before the search.

DataFusion itself has parsed the statement and told which table each name belongs to; its plan, before it is optimised,
is walked from the tables up. A condition is hoisted into a search where nothing between the two would make of "k rows
that satisfy it" something else than was asked: not over an outer join's null side, an aggregate, a window, DISTINCT or
LIMIT. The statement keeps its WHERE all the same, so that what is hoisted can never add a row that does not satisfy it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
from datafusion import expr as ex
from datafusion.plan import LogicalPlan

from pipeline.sql import wording
from pipeline.sql.conditions import spread, translated
from pipeline.sql.parts import UntranslatableError

_KEEPS = {  # the sides of a join whose rows come out as they went in
    "Inner": (True, True),
    "Left": (True, False),
    "LeftSemi": (True, False),
    "LeftAnti": (True, False),
    "LeftMark": (True, False),
    "Right": (False, True),
    "RightSemi": (False, True),
    "RightAnti": (False, True),
}


@dataclass
class Found:
    """What one mention of a search in the plan is asked for: conditions in Lance's words, and those it has none for."""

    scan: str
    conditions: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unseen: bool = False  # it stands where its conditions cannot be told


class _Source(NamedTuple):
    """A stored column of one mention of a search."""

    mention: int
    column: str


class _Output(NamedTuple):
    """A column that a node of the plan gives out, and where its values come from unchanged; nowhere if it is closed."""

    alias: str | None
    name: str
    sources: tuple[_Source, ...] = ()


def hoisted(plan: LogicalPlan, searches: Mapping[str, pa.Schema]) -> dict[str, Found]:
    """What can be asked of each search before it is made.

    Args:
        plan: of the statement, not yet optimised.
        searches: name of each search's placeholder in the plan -> the stored columns that it gives.
    """
    walk = _Walk(searches)
    walk.outputs(plan)
    shown = plan.display_indent()
    return {name: _common(name, [f for f in walk.found if f.scan == name], shown) for name in searches}


def _common(name: str, mentions: Sequence[Found], shown: str) -> Found:
    """What all mentions of one search want; it may be read in several places, as in a WITH that is used twice."""
    there = len(re.findall(rf"SubqueryAlias: {re.escape(name)}\n", shown))
    if there != len(mentions):
        return Found(name, unseen="Filter:" in shown)
    wanted = dict.fromkeys(c for m in mentions for c in m.conditions)
    common = [c for c in wanted if all(c in m.conditions for m in mentions)]
    left = [c for m in mentions for c in m.left] + [c for c in wanted if c not in common]
    return Found(name, common, list(dict.fromkeys(left)))


class _Walk:
    """One way up a plan; each mention of a search collects what is asked of it."""

    def __init__(self, searches: Mapping[str, pa.Schema]) -> None:
        self._searches = searches
        self.found: list[Found] = []

    def outputs(self, plan: LogicalPlan) -> list[_Output]:
        """The columns that a node gives out; none where nothing may be hoisted through it."""
        try:
            node = plan.to_variant()
        except Exception:  # noqa: BLE001  # a kind of node that the library cannot show; it raises its bare base class
            node = None
        if isinstance(node, ex.SubqueryAlias) and node.alias() in self._searches:
            return self._scanned(node.alias())
        inputs = [self.outputs(one) for one in plan.inputs()]
        if isinstance(node, ex.Join):
            return self._joined(node, *inputs)
        if isinstance(node, ex.Filter):
            self._offer(node.predicate(), inputs[0])
        if isinstance(node, ex.Filter | ex.Subquery) or (isinstance(node, ex.Sort) and node.get_fetch_val() is None):
            return inputs[0]
        return _renamed(node, inputs)

    def _scanned(self, name: str) -> list[_Output]:
        self.found.append(Found(name))
        mention = len(self.found) - 1
        return [_Output(name, column, (_Source(mention, column),)) for column in self._searches[name].names]

    def _joined(self, node: ex.Join, left: list[_Output], right: list[_Output]) -> list[_Output]:
        kind = str(node.join_type())
        if kind == "Inner" and node.filter() is not None:
            self._offer(node.filter(), left + right)
        keeps = _KEEPS.get(kind, (False, False))
        return [o for side, kept in zip((left, right), keeps, strict=True) if kept for o in side]

    def _offer(self, predicate: ex.Expr, outputs: Sequence[_Output]) -> None:
        """Give each part of a condition to every search that it is about."""
        for condition in spread(predicate, "AND"):
            for mention in dict.fromkeys(s.mention for o in outputs for s in o.sources):
                of_this = _Columns(outputs, mention, self._searches[self.found[mention].scan])
                try:
                    self.found[mention].conditions.append(translated(condition, of_this.field))
                except UntranslatableError:
                    if of_this.asked and not of_this.strange:
                        self.found[mention].left.append(wording.expression(condition.canonical_name()))


class _Columns:
    """What names stand for as one search sees them; remembers whether all that was asked for was its own."""

    def __init__(self, outputs: Sequence[_Output], mention: int, stored: pa.Schema) -> None:
        self._outputs, self._mention, self._stored = outputs, mention, stored
        self.asked = False
        self.strange = False

    def field(self, alias: str | None, name: str) -> pa.Field:
        """The stored column of a name."""
        self.asked = True
        for output in self._outputs:
            if (output.alias, output.name) == (alias, name):
                for source in output.sources:
                    if source.mention == self._mention:
                        return self._stored.field(source.column)
        self.strange = True
        raise UntranslatableError


def _renamed(node: Any, inputs: Sequence[list[_Output]]) -> list[_Output]:
    """The columns of a node that gives out what goes in, under other names."""
    if isinstance(node, ex.SubqueryAlias):
        return [output._replace(alias=node.alias()) for output in inputs[0]]
    if isinstance(node, ex.Projection):
        return [_projected(expr, inputs[0]) for expr in node.projections()]
    return _united(inputs) if isinstance(node, ex.Union) else []


def _projected(expr: ex.Expr, outputs: Sequence[_Output]) -> _Output:
    if expr.variant_name() == "Alias":
        alias = expr.to_variant()
        return _Output(None, alias.alias(), _projected(alias.expr(), outputs).sources)
    if expr.variant_name() != "Column":
        return _Output(None, expr.schema_name())
    column = expr.to_variant()
    alias, name = column.relation(), column.name()
    sources = (o.sources for o in outputs if (o.alias, o.name) == (alias, name))
    return _Output(alias, name, next(sources, ()))


def _united(branches: Sequence[list[_Output]]) -> list[_Output]:
    """The columns of a UNION, named as those of its first part; each comes from all parts that are open."""
    first = branches[0]
    others = [b for b in branches[1:] if len(b) == len(first)]
    return [
        _Output(None, first[i].name, tuple(s for branch in (first, *others) for s in branch[i].sources))
        for i in range(len(first))
    ]
