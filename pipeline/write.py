"""Embedded blocks -> fragments of one attempt, and a report of the positions they hold."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.gather import Positions, positions_of
from pipeline.samples import row_id
from pipeline.schema import REJECTS, Kind
from pipeline.stores.retry import Tries


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run's rows go, and what is the same in all of them."""

    database: Database
    schema: pa.Schema
    dataset: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Job:
    """Rows of one attempt to write: which positions, from which of the task's blocks."""

    attempt: str
    blocks: tuple[int, ...]
    positions: Positions
    parts: int  # of the slice, with this the last; 0 while more may come


@dataclass(frozen=True, slots=True)
class Report:
    """What a writer made of a job: fragments that no version holds yet, positions, rejects, pairs taken down."""

    attempt: str
    fragments: tuple[str, ...]
    positions: Positions
    embedded: int
    truncated: int
    rejects: pa.Table
    seconds: float
    parts: int  # as the job's
    taken_down: int = 0
    asked_again: int = 0  # how often the store was, after an error


def write_jobs(target: Target, jobs: list[Job], *blocks: pa.Table) -> list[Report]:
    """Write each job's rows as fragments of its own."""
    return [_write(target, job, [blocks[i] for i in job.blocks]) for job in jobs]


def _write(target: Target, job: Job, blocks: list[pa.Table]) -> Report:
    began, tries = time.perf_counter(), Tries()
    rows = _chosen(job, blocks)
    fragments: list[str] = []
    positions, embedded, truncated, taken = np.empty(0, dtype=np.int64), 0, 0, 0
    rejects = REJECTS.empty_table()
    if rows is not None:
        pairs, rejected, gone = (_in_order(rows, kind) for kind in (Kind.PAIR, Kind.REJECT, Kind.TAKEN_DOWN))
        positions = np.concatenate([positions_of(part) for part in (pairs, rejected, gone)])
        embedded, truncated, taken = len(pairs), pc.sum(pairs["truncated"]).as_py() or 0, len(gone)
        rejects = _rejects(target, rejected)
        if embedded:
            fragments = target.database.write("", _rows(target, pairs), tries)
    return Report(
        attempt=job.attempt,
        fragments=tuple(fragments),
        positions=positions,
        embedded=embedded,
        truncated=truncated,
        rejects=rejects,
        seconds=time.perf_counter() - began,
        parts=job.parts,
        taken_down=taken,
        asked_again=tries.again,
    )


def _chosen(job: Job, blocks: list[pa.Table]) -> pa.Table | None:
    """The job's rows, of each position the first copy."""
    wanted, parts = job.positions, []
    for block in blocks:
        placed = pc.and_(pc.equal(block["attempt"], job.attempt), pc.not_equal(block["kind"], Kind.END))
        positions = positions_of(block)
        candidates = np.flatnonzero(placed.fill_null(False).to_numpy() & np.isin(positions, wanted))
        found, first = np.unique(positions[candidates], return_index=True)
        mask = np.zeros(len(block), dtype=bool)
        mask[candidates[first]] = True
        parts.append(block.filter(pa.array(mask)))
        wanted = np.setdiff1d(wanted, found, assume_unique=True)
    return pa.concat_tables(parts) if parts else None


def _in_order(rows: pa.Table, kind: Kind) -> pa.Table:
    """The rows of one kind, by position."""
    mine = np.flatnonzero(pc.equal(rows["kind"], kind).to_numpy())
    return rows.take(pa.array(mine[np.argsort(positions_of(rows)[mine])]))


def _rows(target: Target, pairs: pa.Table) -> pa.Table:
    where = zip(*(pairs[c].to_pylist() for c in ("shard", "key", "caption_index")), strict=True)
    ids = [row_id(target.dataset, *each) for each in where]
    constant = {"id": ids, "dataset": [target.dataset] * len(ids), "run_id": [target.run_id] * len(ids)}
    return pa.table([constant.get(f.name) or pairs[f.name] for f in target.schema], schema=target.schema)


def _rejects(target: Target, rows: pa.Table) -> pa.Table:
    now = pa.scalar(time.time_ns() // 1000, pa.timestamp("us", tz="UTC"))
    constant = {"dataset": target.dataset, "run_id": target.run_id, "at": now}
    columns = [pa.repeat(constant[f.name], len(rows)) if f.name in constant else rows[f.name] for f in REJECTS]
    return pa.table(columns, schema=REJECTS)
