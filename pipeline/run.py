"""A run: list, plan, embed, commit, and record what happened.

slices -> stages.prepared (CPU tasks) -> stages.embedded (actors) -> blocks -> follow.Follow
"""

import json
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline import cluster, stages
from pipeline.committer import Committer
from pipeline.config import Keep, RunConfig
from pipeline.contract import Layout, require_contract
from pipeline.embed import Model, Stored
from pipeline.errors import InputError, ShardError, TableError
from pipeline.follow import Follow
from pipeline.ledger import Ledger, SliceRecord, record_run
from pipeline.progress import Observer
from pipeline.read import resolve_keep
from pipeline.schema import rows_schema
from pipeline.shards import Listing, Plan, Slice, cut, list_shards, plan
from pipeline.storage import redact
from pipeline.summary import Summary
from pipeline.table import Database, Rows, open_or_create
from pipeline.write import Target

_LIBRARIES = ("ray", "pylance", "lancedb", "pyarrow", "torch", "transformers", "pillow")


@dataclass(slots=True)
class Run:
    """One run; call `start` once."""

    config: RunConfig
    model: Model
    observer: Observer
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _on: cluster.Placement | None = None

    def start(self) -> Summary:
        """List, plan, embed and commit.

        Raises:
            InputError: no shard, or no sample in any of them.
            ContractError: the table was made with another model.
            ClusterError, TableError: the run cannot go on; what was whole is committed.
        """
        began, started = time.monotonic(), datetime.now(UTC)
        write = self.config.write
        database = Database(write.db, write.table)
        if (there := Rows.open(database)) is not None:
            require_contract(database.path(), there.contract, self.model.contract)
        ledger = Ledger(database, write.dataset_name)
        listing = list_shards(self.config.read.inputs, write.source_root or ledger.root)
        todo = self._plan(listing, ledger)
        stored = self._stored(listing)
        layout = Layout(rows_schema(stored.keep, stored.vectors, stored.dimension, stored.storage), self.model.contract)
        target = Target(database.absolute(), layout.schema, write.dataset_name, self.run_id)
        committer = Committer(open_or_create(database, layout), layout, target, ledger)
        follow = Follow(self._records(todo, listing.root), target, committer, write.fragment_rows)
        outcome = "interrupted"
        try:
            self._embed(todo, stored, follow)
            outcome = "incomplete" if follow.failures or todo.changed else "done"
        except Exception:  # only to record how it ended; raised again
            outcome = "failed"
            raise
        finally:
            self.observer.close()
            summary = self._summary(outcome, todo, follow, committer, time.monotonic() - began)
            if todo.pending:
                self._note(database, started, summary)
        if not (summary.pairs or summary.failures or todo.changed or summary.elsewhere or ledger.pairs()):
            raise InputError(_nothing(self.config, listing))
        return summary

    def _plan(self, listing: Listing, ledger: Ledger) -> Plan:
        slices = [s for shard in listing.shards for s in cut(shard, self.config.read.slice_bytes)]
        todo = plan(slices, ledger.committed(), listing.matches)
        ignored = f", {listing.ignored} other files ignored" if listing.ignored else ""
        self.observer.say(f"found {len(listing.shards)} shards under {listing.root}{ignored}")
        counts = (len({slice_.shard.path for slice_ in part}) for part in (todo.skipped, todo.pending, todo.changed))
        self.observer.say("skipped {} shards, pending {}, changed {}".format(*counts))
        for name in todo.vanished:
            self.observer.say(f"vanished, its rows stay: {name}")
        return todo

    def _stored(self, listing: Listing) -> Stored:
        write, read = self.config.write, self.config.read
        return Stored(
            write.vectors, self.model.contract.dimension, write.storage, _typed(read.keep, listing, self.config)
        )

    def _records(self, todo: Plan, root: str) -> dict[str, tuple[Slice, SliceRecord]]:
        """Attempt -> the slice and its ledger row, still without counts."""
        records = {}
        for number, slice_ in enumerate(todo.pending):
            attempt, shard = f"{self.run_id}-{number}", slice_.shard
            where = (
                self.config.write.dataset_name,
                root,
                shard.path,
                slice_.name,
                slice_.count,
                shard.size,
                shard.etag,
            )
            records[attempt] = (slice_, SliceRecord(*where, attempt=attempt, run_id=self.run_id))
        return records

    def _embed(self, todo: Plan, stored: Stored, follow: Follow) -> None:
        if not todo.pending:
            return
        with cluster.joined() as resources:
            self._on = cluster.lay_out(self.config.embed, resources)
            self.observer.say(self._on.describe())
            prepared = stages.prepared(follow.slices, stored, self.config.read, self.model, self._on)
            stream = stages.embedded(prepared, self.config.embed, self.model, self._on, stored)
            follow.run(stream, self.observer, self.config.write.commit_seconds)

    def _summary(self, outcome: str, todo: Plan, follow: Follow, committer: Committer, seconds: float) -> Summary:
        tally, busy = committer.tally, follow.busy
        return Summary(
            run_id=self.run_id,
            outcome=outcome,
            table=redact(Database(self.config.write.db, self.config.write.table).path()),
            shards=len(todo.pending) + len(todo.skipped) + len(todo.changed),
            skipped=len(todo.skipped),
            committed=tally.slices,
            elsewhere=tally.elsewhere,
            failures=dict(follow.failures),
            changed=tuple(s.name for s in todo.changed),
            vanished=todo.vanished,
            rows=tally.embedded,
            rejects=dict(tally.rejects),
            truncated=tally.truncated,
            seconds=round(seconds, 3),
            busy={"read": busy.read, "infer": busy.infer, "write": busy.write + tally.seconds},
            calls=busy.calls,
            pairs_per_call=busy.pairs / busy.calls if busy.calls else 0.0,
            commits=tally.commits,
            version=committer.version,
        )

    def _note(self, database: Database, started: datetime, summary: Summary) -> None:
        """Write the run record; where the run has failed already, its own error is worth more than this one's."""
        try:
            record_run(database, self._record(started, summary))
        except TableError as error:
            if summary.outcome in ("done", "incomplete"):
                raise
            self.observer.say(f"nor could the run record be written: {error}")

    def _record(self, started: datetime, summary: Summary) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "started": started,
            "ended": datetime.now(UTC),
            "outcome": summary.outcome,
            "configuration": redact(self.config.to_json()),
            "versions": json.dumps({name: _version(name) for name in _LIBRARIES}),
            "compute": json.dumps(asdict(self._on) if self._on else {}),
            "summary": json.dumps(summary.to_dict()),
        }


def _typed(keep: tuple[Keep, ...], listing: Listing, config: RunConfig) -> tuple[Keep, ...]:
    """The kept columns with their types, told from the first shard that can be read."""
    if all(k.type for k in keep):
        return keep
    problem: ShardError | None = None
    for shard in listing.shards:
        try:
            return resolve_keep(keep, shard, config.read)
        except ShardError as error:
            problem = problem or error
    raise InputError(f"--keep: no shard can be read to find the columns' types: {problem}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None  # a head node does without torch


def _nothing(config: RunConfig, listing: Listing) -> str:
    return (
        f"no sample in {len(listing.shards)} shards of {', '.join(config.read.inputs)}: looked for pictures "
        "(.jpg .jpeg .png .webp, or an image column) with captions (.txt, .json, or a caption column)"
    )
