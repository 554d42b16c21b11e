"""A run: list, plan, embed, commit, and record what happened.

slices -> stages.prepared (CPU tasks) -> stages.embedded (actors) -> blocks -> follow.Follow
"""

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from pipeline import cluster, stages, work
from pipeline.committer import Committer
from pipeline.config import RunConfig
from pipeline.datasets import Place, open_dataset, plan_of
from pipeline.embed import Model
from pipeline.ending import Ending
from pipeline.errors import InputError
from pipeline.follow import Follow
from pipeline.gather import Positions
from pipeline.plan import Plan, shards_of
from pipeline.preflight import require_nodes
from pipeline.recheck import fingerprints
from pipeline.replay import rejected, replays
from pipeline.reports.curve import Curve
from pipeline.shards import gzipped, shard_of
from pipeline.stores.storage import redact
from pipeline.summary import Summary
from pipeline.watch.busy import Busy
from pipeline.watch.events import Ended, Listener, Started
from pipeline.watch.journal import Journal
from pipeline.watch.metrics import recorded
from pipeline.watch.progress import Observer
from pipeline.watch.watchdog import watching
from pipeline.work import Work
from pipeline.write import Target


@dataclass(slots=True)
class Run:
    """One run; call `start` or `replay`, once."""

    config: RunConfig
    model: Model
    observer: Observer
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _began: float = field(default_factory=time.monotonic)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _on: cluster.Placement | None = None
    _follow: Follow | None = None
    _curve: Curve = field(default_factory=Curve)
    _journal: Journal = field(init=False)
    _touched: int = 0

    def __post_init__(self) -> None:
        self._journal = Journal(self._curve, *[self.observer] if isinstance(self.observer, Listener) else [])

    def start(self) -> Summary:
        """List, plan, embed and commit.

        Raises:
            InputError: no shard, or no sample in any of them.
            ContractError: the table was made with another model.
            ClusterError, TableError: the run cannot go on; what was whole is committed.
        """
        place = self._open()
        todo = self._plan(place)
        committer = self._committer(place)
        if self.config.faults.prune:
            committer.prune(work.pruned(todo.vanished, place.ledger.current(), place.blank))
        begin = partial(self._work, place, todo, committer) if todo.pending or todo.changed else None
        summary = self._do(place, todo, committer, begin)
        idle = not (summary.pairs or summary.failures or summary.elsewhere or summary.quarantined)
        if idle and not any(record.read for record in place.ledger.current().values()):
            raise InputError(place.listing.nothing(self.config.read.inputs))
        return summary

    def replay(self, reasons: Collection[str]) -> Summary:
        """Try all rejected pairs again, of the slices that have one rejected for any of `reasons`.

        Raises:
            ContractError, ClusterError, TableError: as `start`.
        """
        place = self._open()
        current = place.ledger.current()
        rejects = rejected(place.database, self.config.write.dataset_name, current)
        again = replays(current, rejects, reasons, place.listing, place.blank, self.config.read.slice_bytes)
        attempts, pairs = again.work.attempts, sum(map(len, again.work.only.values()))
        self.observer.say(f"rejected pairs to try again: {pairs} in {len(attempts)} slices")
        committer = self._committer(place, again.work.only)
        todo = Plan(pending=tuple(slice_ for slice_, _ in attempts.values()))
        return self._do(place, todo, committer, (lambda: again.work) if attempts else None, again.left)

    def _open(self) -> Place:
        write = self.config.write
        self._journal.tell(Started(self.run_id, write.dataset_name, redact(f"{write.db}/{write.table}")))
        return open_dataset(self.config, self.model.contract, self.run_id)

    def _committer(self, place: Place, only: Mapping[str, Positions] | None = None) -> Committer:
        return Committer(place.rows, place.layout, self._target(place), place.ledger, only, self._journal)

    def _target(self, place: Place) -> Target:
        return Target(place.database.absolute(), place.layout.schema, self.config.write.dataset_name, self.run_id)

    def _plan(self, place: Place) -> Plan:
        listing = place.listing
        todo = plan_of(listing, place.ledger, self.config)
        ignored = f", {listing.ignored} other files ignored" if listing.ignored else ""
        self.observer.say(f"found {len(listing.shards)} shards under {listing.root}{ignored}")
        self.observer.say(todo.counts())
        if packed := sum(gzipped(shard.path) for shard in listing.shards):
            self.observer.say(
                f"warning: {packed} of the shards are gzipped: whoever looks at a picture of theirs again reads the "
                "shard from its start, which is slow; plain tars are quick"
            )
        return todo

    def _work(self, place: Place, todo: Plan, committer: Committer) -> Work:
        """Attempts at all that is pending, and at what changed in more than its ETag."""
        read = replace(self.config.read, keep=place.stored.keep)
        same = work.touched(todo, fingerprints(todo.changed, read), place.ledger.current(), place.blank)
        committer.touch(same)
        committer.commit()
        touched = {record.shard for record in same}
        self._touched = len(touched)
        if touched:
            self.observer.say(f"only copied or touched, their rows stay: {len(touched)} shards")
        changed = [s for s in todo.changed if s.shard.path not in touched]
        return work.of_slices([*todo.pending, *changed], shards_of(changed), place.blank)

    def _do(
        self,
        place: Place,
        todo: Plan,
        committer: Committer,
        begin: Callable[[], Work] | None,
        left: Mapping[str, str] | None = None,
    ) -> Summary:
        """Embed what `begin` gives once the cluster is joined, if anything; and record how it went."""
        outcome, failure = "interrupted", None
        try:
            committer.commit()
            if begin is not None:
                self._embed(place, todo, committer, begin)
            outcome = "done"
        except Exception as error:  # only to record how it ended; raised again
            outcome, failure = "failed", error
            raise
        finally:
            self.observer.close()
            self._journal.close()
            summary = self._summary(outcome, todo, committer, left or {})
            if begin is not None or committer.tally.commits:
                ending = Ending(self.config, self._started, self._placement(), self._curve, self.observer.say)
                summary = ending.keep(place, summary, failure)
            self._journal.tell(Ended(summary.outcome, summary.to_dict(), str(failure) if failure else None))
        return summary

    def _embed(self, place: Place, todo: Plan, committer: Committer, begin: Callable[[], Work]) -> None:
        with cluster.joined() as capacity:
            self._on = cluster.lay_out(self.config.embed, capacity, len(todo.pending) + len(todo.changed))
            self.observer.say(self._on.describe())
            self._look_at_nodes(place)
            attempts = begin().attempts
            if attempts:
                fragment_rows = self.config.write.fragment_rows
                target, faults = self._target(place), self.config.faults
                self._follow = Follow(attempts, target, committer, fragment_rows, faults)
                self._stream(place, self._follow)

    def _look_at_nodes(self, place: Place) -> None:
        """Each can read the shards and write the database, by its own means."""
        some = [shard.uri for shard in place.listing.shards]
        for line in require_nodes(place.database.absolute().uri, some):
            self.observer.say(line)

    def _stream(self, place: Place, follow: Follow) -> None:
        assert self._on is not None  # noqa: S101  # _embed laid it out
        with (
            recorded(self._journal, self.config.write, self._on),
            watching(self.config.faults.stall_seconds, self._on.describe(), self.observer.say) as watch,
        ):
            read = replace(self.config.read, keep=place.stored.keep)
            crew = stages.Crew(self._on, watch.line, homes=lambda: watch.homes)
            prepared = stages.prepared(follow.slices, read, self.model, crew, follow.barred)
            stream = stages.embedded(prepared, self.config.embed, self.model, crew, place.stored)
            follow.run(stream, self.observer, self.config.write.commit_after, watch)

    def _summary(self, outcome: str, todo: Plan, committer: Committer, left: Mapping[str, str]) -> Summary:
        tally, faults = committer.tally, self.config.faults
        failures = {**(self._follow.failures if self._follow else {}), **committer.overtaken, **left}
        failed = {shard_of(name) for name in failures}
        if outcome == "done" and len(failed) > faults.allow_failed_shards:
            outcome = "incomplete"
        busy = self._follow.busy if self._follow else Busy()
        quarantined = {path: todo.failures[path].error for path in sorted(shards_of(todo.quarantined))}
        return Summary(
            run_id=self.run_id,
            outcome=outcome,
            table=committer.table,
            shards=len({s for part in (todo.skipped, todo.pending, todo.changed) for s in shards_of(part)}),
            skipped=len(shards_of(todo.skipped)),
            committed=tally.slices,
            elsewhere=tally.elsewhere,
            failures=failures,
            quarantined=quarantined,
            replaced=len(shards_of(todo.changed)) - self._touched,
            touched=self._touched,
            vanished=todo.vanished,
            pruned=tuple(sorted(tally.pruned)),
            rows=tally.embedded,
            rejects=dict(tally.rejects),
            truncated=tally.truncated,
            seconds=round(time.monotonic() - self._began, 3),
            busy={"read": busy.read, "infer": busy.infer, "write": busy.write + tally.seconds},
            calls=busy.calls,
            pairs_per_call=busy.pairs / busy.calls if busy.calls else 0.0,
            commits=tally.commits,
            conflicts=tally.conflicts,
            version=committer.version,
            taken_down=tally.taken_down,
            at_work=busy.shares(),
            asked_again=busy.asked_again,
        )

    def _placement(self) -> cluster.Placement | None:
        """How it was laid out, if it came so far; with what its actors computed in, as each node knew it of its CPU."""
        if self._on and self._follow and (dtypes := self._follow.busy.dtypes):
            return replace(self._on, dtype=" and ".join(sorted(dtypes)))
        return self._on
