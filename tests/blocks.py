"""Embedded blocks made by hand, row by row, and a table to write them to."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.errors import RejectReason, Stage
from pipeline.records import SliceRecord
from pipeline.schema import REJECTS, Kind, prepared_schema, rows_schema
from pipeline.stored import Stored
from pipeline.write import Job, Report, Target
from tests.fakes import CONTRACT, DIMENSION

STORED = Stored(("image", "text", "cross"), DIMENSION, "float16", ())
LAYOUT = Layout(rows_schema((), STORED.vectors, DIMENSION, STORED.storage), CONTRACT)
UNIT = [1.0, 0.0, 0.0, 0.0]

READ_AS = "{}"

Row = dict[str, Any]


def pair(attempt: str, position: int, **more: Any) -> Row:
    vectors = {f"{v}_embedding": np.array(UNIT, np.float16) for v in ("image", "text", "cross")}
    where = {"kind": Kind.PAIR, "slice": attempt, "attempt": attempt, "position": position, "shard": f"{attempt}.tar"}
    return where | vectors | {"key": f"{position:05d}", "caption_index": 0, "itc_score": 1.0, "itm_score": 0.5} | more


def reject(attempt: str, position: int, reason: str = RejectReason.UNDECODABLE) -> Row:
    why = {"stage": Stage.DECODE, "reason": reason, "detail": "by hand"}
    return {"kind": Kind.REJECT, "slice": attempt, "attempt": attempt, "position": position} | why


def end(attempt: str, pairs: int | None, error: str | None = None) -> Row:
    return {"kind": Kind.END, "slice": attempt, "attempt": attempt, "pairs": pairs, "detail": error, "seconds": 0.5}


def call(pairs: int, seconds: float = 1.0) -> Row:
    return {"kind": Kind.CALL, "pairs": pairs, "seconds": seconds}


def block(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist([{k: str(v) if k == "kind" else v for k, v in r.items()} for r in rows], STORED.schema)


def sample(attempt: str, position: int, value: int, *captions: str, **more: Any) -> Row:
    """One prepared picture whose every value is `value`."""
    texts = [
        {"position": position + i, "caption_index": i, "caption": c, "token_ids": [len(w) for w in c.split()]}
        for i, c in enumerate(captions)
    ]
    where = {"kind": str(Kind.SAMPLE), "slice": attempt, "attempt": attempt, "position": position, "key": str(position)}
    return where | {"pixels": bytes([value] * 12), "captions": texts} | more


def prepared(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist([r | {"kind": str(r["kind"])} for r in rows], prepared_schema(()))


def target(folder: Path, run_id: str = "run") -> Target:
    return Target(Database(str(folder), "laion"), LAYOUT.schema, "laion", run_id)


def record(name: str, run_id: str = "run", **more: Any) -> SliceRecord:
    """Of the slice `name`, under the attempt that the other makers here give it unless told."""
    plain = {"shard": f"{name}.tar", "slice": name, "slices": 1, "size": 10, "etag": "e", "attempt": name}
    return SliceRecord(**{**plain, "dataset": "laion", "root": "/root", "read_as": READ_AS, "run_id": run_id, **more})


def report(attempt: str, positions: list[int], parts: int = 1, **more: Any) -> Report:
    plain = {
        "fragments": (),
        "embedded": len(positions),
        "truncated": 0,
        "rejects": REJECTS.empty_table(),
        "seconds": 0.0,
    }
    return Report(attempt=attempt, positions=np.array(positions, np.int64), parts=parts, **{**plain, **more})


def job(attempt: str, *positions: int, blocks: tuple[int, ...] = (0,), parts: int = 1) -> Job:
    return Job(attempt, blocks, np.array(positions, np.int64), parts)
