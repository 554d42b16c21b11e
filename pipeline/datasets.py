"""A dataset as a run finds it: its shards, its table with all columns, its ledger; checked before any work."""

import math
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline import work
from pipeline.config import Contract, Keep, RunConfig
from pipeline.contract import Layout, require_contract
from pipeline.database import Database
from pipeline.errors import ConfigError, InputError, ShardError, TableError
from pipeline.keys import require_keys
from pipeline.ledger import Ledger, LookedAt
from pipeline.plan import QUARANTINE, Plan, plan
from pipeline.preflight import require_store
from pipeline.read import resolve_keep
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.schema import VALUE_TYPES, rows_schema
from pipeline.shards import Listing, cut, list_shards
from pipeline.stored import Stored
from pipeline.stores.retry import patiently
from pipeline.table import Change, Rows, commit, latest, open_or_create


@dataclass(frozen=True, slots=True)
class Place:
    """What a run reads from and writes to. `blank` is a record of the run, of no slice yet."""

    database: Database
    ledger: Ledger
    listing: Listing
    stored: Stored
    layout: Layout
    rows: Rows
    blank: SliceRecord


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset before anything is written: what a run would read, and how its rows would be laid out."""

    database: Database
    ledger: Ledger
    listing: Listing
    stored: Stored
    layout: Layout

    def plan(self, config: RunConfig) -> Plan:
        """What a run has to do."""
        return plan_of(self.listing, self.ledger, config)


def plan_of(listing: Listing, ledger: Ledger, config: RunConfig) -> Plan:
    """What is listed, cut into slices, less what is committed or quarantined."""
    slices = [s for shard in listing.shards for s in cut(shard, config.read.slice_bytes)]
    limit = math.inf if config.faults.retry_failed else QUARANTINE
    return plan(slices, ledger.current(), ledger.failures(), listing.matches, limit)


def find_dataset(config: RunConfig, contract: Contract, kind: type[Ledger] = LookedAt) -> Found:
    """List the shards, and look at table and ledger, if they are there; nothing is made or written.

    Args:
        config: of the run.
        contract: of its model.
        kind: of ledger; a run takes one that writes.

    Raises:
        InputError, ContractError, ConfigError: as `open_dataset`.
    """
    write = config.write
    database = Database(write.db, write.table)
    there = Rows.open(database)
    if there is not None:
        require_contract(database.path(), there.contract, contract)
    ledger = kind(database, write.dataset_name)
    _require_same_reading(ledger, config)
    listing = list_shards(config.read.inputs, write.source_root or ledger.root)
    if not ledger.current():
        require_keys(listing.shards, config.read)
    _require_known_shards(config, ledger, listing)
    keep = _kept(config, listing, there.schema if there is not None else pa.schema([]), contract.dimension)
    stored = Stored(write.vectors, contract.dimension, write.storage, keep, config.embed.tags)
    layout = Layout(rows_schema(keep, stored.vectors, stored.dimension, stored.storage, stored.tags), contract)
    if there is not None:
        there.check_less(layout, there.lacks(layout))
    return Found(database, ledger, listing, stored, layout)


def open_dataset(config: RunConfig, contract: Contract, run_id: str) -> Place:
    """List the shards, and open the table and the ledger; made if they are not there.

    Raises:
        InputError: no shard.
        PreflightError: the libraries or the store are not as a commit needs them.
        ContractError: the table was made with another model.
        ConfigError: the dataset is read with other caption or image keys, or a shard lies outside its root.
    """
    write = config.write
    database = Database(write.db, write.table)
    require_store(database.absolute().uri)  # before Lance, which waits minutes for a store that does not answer
    found = find_dataset(config, contract, Ledger)
    ledger, listing = found.ledger, found.listing
    open_or_create(database, found.layout)
    rows = _declare(database, found.layout, ledger, config, work.blank(config, listing.root, run_id))
    if write.source_root is None and ledger.root != listing.root:
        listing = list_shards(config.read.inputs, ledger.root)
    blank = work.blank(config, listing.root, run_id)
    return Place(database, ledger, listing, found.stored, found.layout, rows, blank)


def _require_same_reading(ledger: Ledger, config: RunConfig) -> None:
    mine = work.read_as(config.read)
    if ledger.read_as not in (None, mine) and ledger.current():
        raise ConfigError(
            f"--caption-key, --image-key: dataset {config.write.dataset_name!r} was read with {ledger.read_as}, this "
            f"run has {mine}: use the same, or another --dataset, which is embedded by itself"
        )


def _require_known_shards(config: RunConfig, ledger: Ledger, listing: Listing) -> None:
    """Refuse a new root under which every shard would be taken for a new one."""
    root, known = config.write.source_root, {record.shard for record in ledger.current().values()}
    if root is None or root == ledger.root or not known or any(shard.path in known for shard in listing.shards):
        return
    raise ConfigError(
        f"--source-root {root}: none of the {len(listing.shards)} shards there is one of dataset "
        f"{config.write.dataset_name!r} (here {listing.shards[0].path}, there {min(known)}): name the folder that "
        f"stands for {ledger.root} now, or another --dataset"
    )


def _declare(database: Database, layout: Layout, ledger: Ledger, config: RunConfig, blank: SliceRecord) -> Rows:
    """Fix the dataset's root and how it is read, in a commit of its own: of two first runs at once, one decides."""
    rows = latest(database)
    for attempt in patiently(TableError):
        with attempt:
            rows = latest(database)
            ledger.absorb(rows)
            _require_same_reading(ledger, config)
            moved = config.write.source_root is not None and ledger.root != blank.root
            if ledger.read_as != blank.read_as or moved:
                change = Change([], properties([replace(blank, outcome=Outcome.DECLARED)]), blank.dataset)
                rows = commit(database, rows, layout, change)
                ledger.absorb(rows)
    return rows


def _kept(config: RunConfig, listing: Listing, table: pa.Schema, dimension: int) -> tuple[Keep, ...]:
    """The columns to bring along: those that the table has, and new ones with types told from the data."""
    write, read = config.write, config.read
    own = rows_schema((), write.vectors, dimension, write.storage, config.embed.tags).names
    names = {kind: name for name, kind in VALUE_TYPES.items()}
    theirs = {f.name: Keep(f.name, names[f.type], asked=False) for f in table if f.name not in own and f.type in names}
    asked = {k.name: replace(k, type=k.type or getattr(theirs.get(k.name), "type", None)) for k in read.keep}
    unknown = tuple(k for k in asked.values() if k.type is None)
    typed = {k.name: k for k in _typed(unknown, listing, config)}
    return tuple((theirs | asked | typed).values())


def _typed(keep: tuple[Keep, ...], listing: Listing, config: RunConfig) -> tuple[Keep, ...]:
    """The same with their types, told from the first shard that can be read."""
    if not keep:
        return keep
    problem: ShardError | None = None
    for shard in listing.shards:
        try:
            return resolve_keep(keep, shard, replace(config.read, keep=keep))
        except ShardError as error:
            problem = problem or error
    raise InputError(f"--keep: no shard can be read to find the columns' types: {problem}")
