"""One statement's DataFusion: its tables, its functions, and nothing that could change or reach anything else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from datafusion import DataFrame, RuntimeEnvBuilder, SessionConfig, SessionContext, SQLOptions, udtf
from datafusion.catalog import Table
from datafusion.expr import Analyze, Explain, Expr

from pipeline.sql.functions import FUNCTIONS, Call, CallError, Function
from pipeline.sql.hoisting import Found, hoisted
from pipeline.sql.limits import Limits
from pipeline.sql.tables import Tables, nothing

READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
# They make much out of little, and what they make is in no memory pool's books.
_SWELLING = ("repeat", "lpad", "rpad", "range", "generate_series", "array_repeat", "list_repeat", "array_resize")
_SETTINGS = {  # texts as pandas and parquet know them
    "datafusion.sql_parser.map_string_types_to_utf8view": "false",
    "datafusion.optimizer.expand_views_at_output": "true",
}
# All rules of the optimiser but those that turn a subquery into a join, where its conditions can be seen.
_RULES = (
    "rewrite_set_comparison",
    "optimize_unions",
    "unions_to_filter",
    "simplify_expressions",
    "replace_distinct_aggregate",
    "eliminate_join",
    "extract_equijoin_predicate",
    "eliminate_duplicated_expr",
    "eliminate_filter",
    "eliminate_cross_join",
    "eliminate_limit",
    "propagate_empty_relation",
    "filter_null_join_keys",
    "eliminate_outer_join",
    "push_down_limit",
    "push_down_filter",
    "single_distinct_aggregation_to_group_by",
    "eliminate_group_by_constant",
    "common_sub_expression_eliminate",
    "optimize_projections",
    "extract_leaf_expressions",
    "push_down_leaf_projections",
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a statement asks for, before anything is searched."""

    calls: tuple[Call, ...]  # in the order in which DataFusion comes to them
    found: tuple[Found, ...]  # of each call
    explains: bool  # an EXPLAIN or EXPLAIN ANALYZE
    runs: bool  # anything but an EXPLAIN, which makes no search


def survey(statement: str, tables: Tables, limits: Limits) -> Survey:
    """Plan a statement with empty tables in its searches' place."""
    context, calls, refused = _context(tables, limits), list[Call](), list[CallError]()
    for rule in _RULES:
        context.remove_optimizer_rule(rule)

    def placed(function: Function, *arguments: Expr) -> Table:
        try:
            call = Call.of(function, arguments)
        except CallError as error:
            refused.append(error)
            raise
        calls.append(call)
        return _table(context, _placeholder(len(calls) - 1), call.schema(tables.samples.schema).empty_table())

    _register(context, placed)
    try:
        frame = context.sql_with_options(statement, READ_ONLY)
    except Exception:  # DataFusion raises the bare base class; raised again, or as ours
        if refused:
            raise refused[0] from None  # DataFusion has put it into words of its own
        raise
    for call in calls:
        call.check_where(tables.samples)
    node = frame.logical_plan().to_variant()
    schemas = {_placeholder(i): _stored(call, tables) for i, call in enumerate(calls)}
    found = hoisted(frame.optimized_logical_plan(), schemas) if calls else {}
    explains = isinstance(node, Explain | Analyze)
    return Survey(tuple(calls), tuple(found.values()), explains, not isinstance(node, Explain))


def planned(statement: str, tables: Tables, limits: Limits, answers: Mapping[int, pa.Table]) -> DataFrame:
    """Plan a statement with each search's answer in its place; an empty table where there is none."""
    context, seen = _context(tables, limits), list[Function]()

    def answered(function: Function, *arguments: Expr) -> Table:
        number = len(seen)
        seen.append(function)
        answer = answers.get(number)
        if answer is None:
            answer = Call.of(function, arguments).schema(tables.samples.schema).empty_table()
        return _table(context, _placeholder(number), answer)

    _register(context, answered)
    return context.sql_with_options(statement, READ_ONLY)


def function_names(tables: Tables, limits: Limits) -> list[str]:
    """The functions of rows, groups and windows that a statement can use."""
    context = _context(tables, limits)
    return sorted({*context.udfs(), *context.udafs(), *context.udwfs()})


def _context(tables: Tables, limits: Limits) -> SessionContext:
    environment = RuntimeEnvBuilder().with_disk_manager_disabled().with_greedy_memory_pool(int(limits.memory))
    config = SessionConfig().with_information_schema(False)
    for name, value in _SETTINGS.items():
        config = config.set(name, value)
    context = SessionContext(config, environment)
    for name in _SWELLING:
        context.deregister_udf(name)
    tables.register(context)
    return context


def _register(context: SessionContext, give: Callable[..., Table]) -> None:
    for function in FUNCTIONS.values():
        context.register_udtf(udtf(_given(give, function), function.name))


def _given(give: Callable[..., Table], function: Function) -> Callable[..., Table]:
    return lambda *arguments: give(function, *arguments)


def _placeholder(number: int) -> str:
    return f"search #{number + 1}"


def _table(context: SessionContext, name: str, rows: pa.Table) -> Table:
    """A table that the statement reads and cannot name; in the plan it goes by `name`."""
    return Table(context.read_batches(rows.combine_chunks().to_batches() or [nothing(rows.schema)]).alias(name))


def _stored(call: Call, tables: Tables) -> pa.Schema:
    scores = set(call.function.scores)
    return pa.schema([field for field in call.schema(tables.samples.schema) if field.name not in scores])
