"""Build the indexes of a table, measure what they are worth, and keep both in the table and in a run record."""

import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import lance

from pipeline.database import Database
from pipeline.errors import TableError
from pipeline.index import keep_tuned
from pipeline.indexes.build import build, described, drop, fold
from pipeline.indexes.kinds import Choice, choose, worth_a_cluster
from pipeline.indexes.measure import ask, measure, rare
from pipeline.indexes.report import Indexed, Report, Request
from pipeline.indexes.scalars import CAPTION, SCALARS, index_scalars
from pipeline.indexes.tune import recall, tune, widen
from pipeline.runs import record_work
from pipeline.schema import EMBEDDING_COLUMNS

_FEWER = 4  # queries behind a filter, for one without: each takes longer


def index(database: Database, request: Request) -> Report:
    """Build or fold what is asked for.

    Raises:
        TableError: no such table, no rows, not these vectors, or too few rows for the kind that was named.
        ConfigError: partitions that cannot be.
        ClusterError: Ray's workers were asked for and cannot be had.
    """
    started, dataset = datetime.now(UTC), database.require()
    _require(database, dataset, request)
    choices = {column: _choice(dataset, column, request) for column in dict.fromkeys(request.columns)}
    small = (SCALARS if request.scalars else ()) + ((CAPTION,) if request.fulltext else ())
    others = index_scalars(database, small)
    vectors = [_vectors(database, column, choice, request) for column, choice in choices.items()]
    report = Report(database.table, dataset.count_rows(), request.min_recall, vectors, others)
    outcome = "done" if report.enough else "incomplete"
    record_work(database, "build_index", started, outcome, asdict(request), report.to_json())
    return report


def fold_in(database: Database) -> list[str]:
    """Bring new rows into every index that is there, of vectors or not; returns their columns.

    Raises:
        TableError: no such table, or it cannot be written.
    """
    columns = [column for index in database.require().describe_indices() for column in index.field_names]
    for column in columns:
        fold(database, column)
    return columns


def kept_up(database: Database) -> tuple[str, ...]:
    """The vectors that have an index; without any, the first that the table holds."""
    dataset = database.require()
    stored = [name for name, column in EMBEDDING_COLUMNS.items() if column in dataset.schema.names]
    indexed = [name for name in stored if described(dataset, EMBEDDING_COLUMNS[name]) is not None]
    return tuple(indexed or stored[:1])


def _require(database: Database, dataset: lance.LanceDataset, request: Request) -> None:
    where, known = database.shown, dataset.schema.names
    for column in request.columns:
        if EMBEDDING_COLUMNS[column] not in known:
            there = ", ".join(name for name, stored in EMBEDDING_COLUMNS.items() if stored in known)
            raise TableError(
                f"{where} holds no {EMBEDDING_COLUMNS[column]}: index another --column, which is {there or 'none'}, or "
                f"embed with {column} in --vectors"
            )
    if dataset.count_rows() == 0:
        raise TableError(f"{where} holds no rows yet: embed shards into it first")


def _choice(dataset: lance.LanceDataset, column: str, request: Request) -> Choice | None:
    """What to build; None where the index that is there is kept up instead."""
    stored = EMBEDDING_COLUMNS[column]
    if request.optimize and described(dataset, stored) is not None:
        return None
    width = dataset.schema.field(stored).type.list_size
    return choose(request.kind, request.partitions, dataset.count_rows(), width)


def _vectors(database: Database, column: str, choice: Choice | None, request: Request) -> Indexed:
    stored, began = EMBEDDING_COLUMNS[column], time.monotonic()
    if choice is None:
        fold(database, stored)
    elif choice.kind == "exact":
        drop(database, stored)
    elif _distributed(request, database.require().count_rows()):
        from pipeline.indexes.on_ray import build_on_ray  # Ray, which a small table does without

        build_on_ray(database, stored, choice)
    else:
        build(database, stored, choice)
    seconds = round(time.monotonic() - began, 2)
    why = "new rows were folded in" if choice is None else choice.why
    return _worth(database, column, why, seconds, request)


def _distributed(request: Request, rows: int) -> bool:
    if request.distributed is not None:
        return request.distributed
    return "RAY_ADDRESS" in os.environ and worth_a_cluster(rows)


def _worth(database: Database, column: str, why: str, seconds: float, request: Request) -> Indexed:
    """Measure what is there now, and keep how it is best asked."""
    dataset = database.require()
    there, asked = described(dataset, EMBEDDING_COLUMNS[column]), ask(dataset, column, request.queries)
    if there is None:
        keep_tuned(database, column, None)
        return Indexed(column, "exact", 0, why, seconds, 0, None, measure(dataset, column, asked, None), True)
    dataset.prewarm_index(there.name)
    parts = dataset.stats.index_stats(there.name)["indices"]
    partitions = max(part["num_partitions"] for part in parts)
    how, measured = tune(partial(measure, dataset, column, asked), partitions, request.min_recall)
    if condition := rare(dataset):
        behind = ask(dataset, column, max(1, request.queries // _FEWER), condition)
        ways = partial(measure, dataset, column, behind)
        how, filtered = widen(ways, how, partitions, request.min_recall)
        measured = [*measured, *filtered]
    keep_tuned(database, column, how)
    enough = recall(measured) >= request.min_recall
    size = there.total_size_bytes or 0
    return Indexed(column, there.index_type.lower(), partitions, why, seconds, size, how, measured, enough)
