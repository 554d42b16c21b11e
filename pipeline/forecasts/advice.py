"""What would be slow or go wrong in a run, each with what to change."""

import math
from collections.abc import Iterator, Mapping, Sequence

from pipeline.config import RunConfig
from pipeline.forecasts.choice import bytes_of
from pipeline.forecasts.outlook import Advice, Forecast
from pipeline.shards import Slice, gzipped
from pipeline.terminal import size

_SLOWER = 0.9  # readers that do less than this share of what the actors could
_LARGE = 2 * 2**30  # bytes of a tar, which one reader reads and a failure reads again
_FEW = 1000  # pairs of a slice, and so of a fragment
_MANY = 1000  # fragments; each commit and search pays for them
_DETAILED = 1.0  # megapixels; no BridgeTower looks at more than 0.1
_MOST_NAMED = 3


def advise(
    told: Forecast, config: RunConfig, slices: Sequence[Slice], elsewhere: Mapping[str, str]
) -> tuple[Advice, ...]:
    """All that applies.

    Args:
        told: the forecast so far.
        config: of the run.
        slices: that are to be done.
        elsewhere: bucket -> its region, of those in none of the nodes' regions.
    """
    if not slices:
        return ()
    found = [*_reading(told), *_network(told), *_shards(told, slices), *_losses(told, config)]
    for bucket, region in elsewhere.items():
        found.append(
            Advice(
                f"bucket {bucket} is in {region}, the nodes are not: reads are slow there and paid for by the byte",
                f"run the cluster in {region}, or copy the bucket to the nodes' region",
            )
        )
    return tuple(found)


def _reading(told: Forecast) -> Iterator[Advice]:
    pace, on = told.pace, told.cluster
    if on is None or not pace.readers or pace.read >= _SLOWER * pace.embed:
        return
    wanted = pace.embed / pace.read * pace.readers * on.placement.reader_cpus
    wanted = math.ceil(wanted + on.placement.actors * on.placement.num_cpus)
    if wanted <= on.cpus:
        return
    each = f", {math.ceil(wanted / on.gpus_used)} for each GPU" if on.gpus_used else ""
    size = f"pictures of {told.totals.megapixels:.2g} megapixels"
    fewer = math.ceil(on.placement.actors * pace.read / pace.embed)
    also = f", or --actors {fewer}" if fewer < on.placement.actors else ""
    smaller = told.totals.megapixels > _DETAILED
    yield Advice(
        f"too few CPUs for {size}: {pace.readers} readers prepare {pace.read:,.0f} pairs/s, "
        f"{on.placement.actors} actors could embed {pace.embed:,.0f}",
        f"have {wanted} CPUs instead of {on.cpus:g}{each}{also}"
        + (", or store the pictures smaller (img2dataset --image_size)" if smaller else ""),
    )


def _network(told: Forecast) -> Iterator[Advice]:
    on = told.network
    if on is None:
        return
    here, there = on.embedding, on.reading
    card = f"its network card takes {size(on.card)}/s" + ("" if on.told else ", assumed, since no node told")
    pace = f"the network is the limit: at {told.pace.rate or 0.0:,.0f} pairs/s each of"
    if here.squares + here.shards > on.card:
        yield Advice(
            f"{pace} {here.nodes} nodes with GPUs gets {size(here.squares)}/s of pictures that are prepared elsewhere "
            f"and {size(here.shards)}/s of shards, and {card}",
            f"have more CPUs on GPU nodes ({on.cpus} each would prepare all), fewer GPUs a node, or a faster network",
        )
    if max(there.squares, there.shards) > on.card:
        yield Advice(
            f"{pace} {there.nodes} nodes {'without GPUs in use ' if here.nodes else ''}reads {size(there.shards)}/s of "
            f"shards and sends {size(there.squares)}/s of prepared pictures, and {card}",
            "have more and smaller nodes, a faster network, or store the pictures smaller (img2dataset --image_size)",
        )


def _shards(told: Forecast, slices: Sequence[Slice]) -> Iterator[Advice]:
    readers, largest = told.pace.readers, max(slices, key=bytes_of)
    if readers > len(slices):
        yield Advice(
            f"shards too large: {len(slices)} slices for {readers} readers, so some of these have nothing to do",
            f"repack into {readers} shards or more, or run on fewer CPUs",
        )
    if bytes_of(largest) > _LARGE:
        yield Advice(
            f"shards too large: {largest.name} has {bytes_of(largest) / 2**30:.1f} GiB, which one reader reads from "
            "front to back, and again after any failure",
            "repack into tars of some 10,000 samples (img2dataset --number_sample_per_shard)",
        )
    pairs = told.totals.pairs.value / len(slices)
    if pairs < _FEW and told.fragments > _MANY:
        yield Advice(
            f"shards too small: about {pairs:,.0f} pairs each, so the table gets {told.fragments:,} small fragments, "
            "which slow every commit and search",
            "repack into shards of some 10,000 samples, or run jobs/compact.py afterwards",
        )
    if packed := sum(gzipped(s.shard.path) for s in slices):
        yield Advice(
            f"{packed} shards are gzipped: whoever looks at a picture of theirs again reads from the shard's start",
            "store plain tars; pictures are compressed already",
        )


def _losses(told: Forecast, config: RunConfig) -> Iterator[Advice]:
    counts, most = told.totals, config.faults.max_reject_rate
    lost = counts.rejects.value - counts.reasons.get("not_downloaded", 0)
    if counts.pairs.value and lost / counts.pairs.value > most:
        yield Advice(
            f"about {lost / counts.pairs.value:.0%} of the pairs will be rejected, and the run ends above {most:.0%}: "
            + ", ".join(f"{reason} {count:,}" for reason, count in counts.reasons.items()),
            "look at why, or allow more with --max-reject-rate",
        )
    for why in list(counts.failing.values())[:_MOST_NAMED]:
        yield Advice(f"a shard cannot be read: {why}", "mend or remove it; the run will go on without it and exit 1")
    if told.quarantined:
        yield Advice(
            f"{told.quarantined} shards are left alone: they failed in three runs, unchanged",
            "mend them, or give --retry-failed",
        )
