"""What a run has to do, as attempts: each slice with the ledger row that it will have."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipeline.config import ReadConfig, RunConfig
from pipeline.gather import Positions
from pipeline.plan import Plan
from pipeline.records import Outcome, SliceRecord
from pipeline.shards import Slice

Attempts = dict[str, tuple[Slice, SliceRecord]]


@dataclass(frozen=True, slots=True)
class Work:
    """Attempts at slices; `only` has, for those that try rejected pairs again, the positions of these."""

    attempts: Attempts
    only: Mapping[str, Positions] = field(default_factory=dict)


def read_as(config: ReadConfig) -> str:
    """What decides which pairs a shard holds, as JSON text; fixed by a dataset's first run."""
    return json.dumps({"caption_keys": config.caption_keys, "image_key": config.image_key}, sort_keys=True)


def blank(config: RunConfig, root: str, run_id: str) -> SliceRecord:
    """A record of this run, of no slice yet."""
    return SliceRecord(config.write.dataset_name, root, read_as(config.read), "", "", 0, 0, "", "", run_id)


def of_slices(slices: Iterable[Slice], changed: Collection[str], blank: SliceRecord) -> Work:
    """Attempts at whole slices; those of `changed` shards replace what was committed of them."""
    attempts = {}
    for number, slice_ in enumerate(slices):
        shard, attempt = slice_.shard, f"{blank.run_id}-{number}"
        attempts[attempt] = (
            slice_,
            replace(
                blank,
                shard=shard.path,
                slice=slice_.name,
                slices=slice_.count,
                size=shard.size,
                etag=shard.etag,
                attempt=attempt,
                replaces=shard.path in changed,
            ),
        )
    return Work(attempts)


def touched(
    plan: Plan, fingerprints: Mapping[str, str], current: Mapping[str, SliceRecord], blank: SliceRecord
) -> list[SliceRecord]:
    """Records of changed shards that hold the same as before, by slice: under a new ETag, their rows stay.

    Args:
        plan: of the run.
        fingerprints: of slices of changed shards, as they are now.
        current: the records that count.
        blank: a record of this run.
    """
    by_shard: dict[str, list[Slice]] = {}
    for slice_ in plan.changed:
        by_shard.setdefault(slice_.shard.path, []).append(slice_)
    old: dict[str, set[str]] = {}
    for name, record in current.items():
        old.setdefault(record.shard, set()).add(name)
    records = []
    for path, slices in by_shard.items():
        if {s.name for s in slices} == old[path] and all(
            fingerprints.get(s.name) == current[s.name].fingerprint for s in slices
        ):
            records += [
                replace(
                    current[s.name],
                    root=blank.root,
                    size=s.shard.size,
                    etag=s.shard.etag,
                    run_id=blank.run_id,
                    replaces=True,
                )
                for s in slices
            ]
    return records


def pruned(vanished: Iterable[str], current: Mapping[str, SliceRecord], blank: SliceRecord) -> list[SliceRecord]:
    """Records that end what is known of vanished shards."""
    of_shard = {record.shard: record for record in current.values()}
    return [
        replace(
            blank,
            shard=path,
            slice=path,
            size=of_shard[path].size,
            etag=of_shard[path].etag,
            outcome=Outcome.PRUNED,
            replaces=True,
        )
        for path in vanished
    ]
