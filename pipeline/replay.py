"""Rejected pairs that are worth another try: at their recorded positions, in shards that are as they were."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import EmbedConfig, ReadConfig, WriteConfig
from pipeline.database import Database
from pipeline.errors import ConfigError, InputError, RejectReason
from pipeline.gather import Positions
from pipeline.ledger import Ledger
from pipeline.plan import identity
from pipeline.records import SliceRecord
from pipeline.schema import EMBEDDING_COLUMNS, tagging_of
from pipeline.shards import Listing, Slice, cut
from pipeline.work import Attempts, Work

WORTH_IT = tuple(reason for reason in RejectReason if reason != RejectReason.NOT_DOWNLOADED)


def known(reasons: Collection[str]) -> tuple[str, ...]:
    """The same reasons; raises ConfigError for one that does not exist."""
    for reason in reasons:
        if reason not in set(RejectReason):
            raise ConfigError(f"--reason {reason!r} is not valid: allowed is any of {', '.join(RejectReason)}")
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class Replay:
    """What can be tried again, and slices that cannot, with the reason."""

    work: Work
    left: dict[str, str]


def as_embedded(write: WriteConfig, embed: EmbedConfig, max_pixels: int) -> tuple[ReadConfig, WriteConfig, EmbedConfig]:
    """How a dataset was read and is stored, tags and all, told by its table and its ledger.

    Raises:
        TableError: there is no such table.
        InputError: it holds no such dataset.
    """
    database = Database(write.db, write.table)
    schema = database.require().schema
    ledger = Ledger(database, write.dataset_name)
    if ledger.root is None or ledger.read_as is None:
        raise InputError(f"{database.shown} holds no dataset {write.dataset_name!r}: name one with --dataset")
    reading = json.loads(ledger.read_as)
    read = ReadConfig(
        (write.source_root or ledger.root,), reading["image_key"], tuple(reading["caption_keys"]), (), max_pixels
    )
    vectors = tuple(v for v, column in EMBEDDING_COLUMNS.items() if column in schema.names)
    storage = "float16" if schema.field(EMBEDDING_COLUMNS[vectors[0]]).type.value_type == pa.float16() else "float32"
    return read, replace(write, vectors=vectors, storage=storage), replace(embed, tags=tagging_of(schema))


def rejected(database: Database, dataset: str, current: Mapping[str, SliceRecord]) -> dict[str, dict[int, str]]:
    """Attempt -> position -> reason, of the rejects that count."""
    attempts = {record.attempt for record in current.values() if record.rejected}
    table = database.open("rejects")
    found: dict[str, dict[int, str]] = {}
    if table is None or not attempts:
        return found
    rows = database.scan("rejects", table, ["dataset", "attempt", "position", "reason"])
    for row in rows.filter(pc.equal(rows["dataset"], dataset)).to_pylist():
        if row["attempt"] in attempts:
            found.setdefault(row["attempt"], {})[row["position"]] = row["reason"]
    return found


def replays(
    current: Mapping[str, SliceRecord],
    rejects: Mapping[str, Mapping[int, str]],
    reasons: Collection[str],
    listing: Listing,
    blank: SliceRecord,
    slice_bytes: int,
) -> Replay:
    """Attempts at all rejected pairs of the slices that have one for any of `reasons`.

    Args:
        current: the records that count.
        rejects: of these, by attempt; `rejected`.
        reasons: of which a slice must have one.
        listing: the dataset's shards as they are now.
        blank: a record of this run.
        slice_bytes: how large parquet shards are cut.
    """
    attempts: Attempts = {}
    only: dict[str, Positions] = {}
    left: dict[str, str] = {}
    for record in current.values():
        positions = rejects.get(record.attempt, {})
        if not any(reason in reasons for reason in positions.values()):
            continue
        found = _slice(record, listing, slice_bytes)
        if isinstance(found, str):
            left[record.slice] = found
            continue
        attempt = f"{blank.run_id}-{len(attempts)}"
        only[attempt] = np.array(sorted(positions), dtype=np.int64)
        again = replace(record, root=blank.root, attempt=attempt, run_id=blank.run_id, replaces=False)
        attempts[attempt] = replace(found, only=frozenset(positions)), again
    return Replay(Work(attempts, only), left)


def _slice(record: SliceRecord, listing: Listing, slice_bytes: int) -> Slice | str:
    """The slice as it is now, or why it cannot be read again."""
    shard = next((s for s in listing.shards if s.path == record.shard), None)
    if shard is None:
        return "its shard is no longer there"
    if identity(shard) != record.identity:
        return "its shard has changed: run embed_laion.py first"
    same = [s for s in cut(shard, slice_bytes) if s.name == record.slice and s.count == record.slices]
    return same[0] if same else "its shard is cut into other slices now: run embed_laion.py first"
