"""A slice -> tables of prepared samples, rejects and one end record: the CPU half of the work."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.barred import Barred
from pipeline.config import ReadConfig
from pipeline.decode import Rejected, decode
from pipeline.embed import Preparer
from pipeline.errors import RejectReason, ShardError, Stage
from pipeline.read import Caption, Fingerprint, Place, Reject, Sample, read_slice
from pipeline.records import Outcome
from pipeline.schema import Kind, prepared_schema
from pipeline.shards import Slice
from pipeline.stores.retry import GaveUpError, Tries, causes
from pipeline.stores.storage import explain
from pipeline.watch.busy import work

_TABLE_BYTES = 16 * 2**20
_TABLE_ROWS = 64

Row = dict[str, Any]


def prepare_slice(
    slice: Slice, attempt: str, config: ReadConfig, preparer: Preparer, barred: Barred | None = None
) -> Iterator[pa.Table]:
    """Read, decode and prepare a slice, less what was taken down; the last row is its end record.

    A shard that cannot be read to its end is an end record with the error in `detail` and null `pairs`, never
    an exception: the other shards go on.
    """
    schema, fingerprint, tries = prepared_schema(config.keep), Fingerprint(), Tries()
    where = {"slice": slice.name, "attempt": attempt, "shard": slice.shard.path}
    rows: list[Row] = []
    pairs, size, seconds, clock = 0, 0, 0.0, time.perf_counter()
    began, first = time.time(), clock
    end: Row = {"kind": Kind.END}
    at = "at its start"
    try:
        for read in read_slice(slice, config, fingerprint, tries):
            at = f"at or after sample {read.key}"
            if (wanted := _wanted(read, slice)) is None:
                continue
            pairs += 1 if isinstance(wanted, Reject) else len(wanted.captions)
            left, gone = _allowed(wanted, slice, barred)
            rows += [{"kind": Kind.TAKEN_DOWN, "position": position} for position in gone]
            if isinstance(left, Reject):
                rows.append(_reject_row(left))
            elif left is not None:
                rows += _prepared(left, config, preparer)
                size += len(rows[-1].get("pixels") or b"")
            if size >= _TABLE_BYTES or len(rows) >= _TABLE_ROWS:
                seconds += time.perf_counter() - clock
                yield _table(rows, where, schema)
                rows, size, clock = [], 0, time.perf_counter()
        end |= {"pairs": pairs, "fingerprint": str(fingerprint)}
    except ShardError as error:
        gave_up = any(isinstance(each, GaveUpError) for each in causes(error))  # the store's fault, not the shard's
        end |= {"detail": str(error), "reason": Outcome.LOST if gave_up else Outcome.FAILED}
    except Exception as error:  # noqa: BLE001  # whatever it is, this shard is named, and does not stop the others
        rows = []
        end |= {"detail": f"{slice.shard.uri}: {at}: {explain(error)}", "reason": Outcome.FAILED}
    end |= {"seconds": seconds + time.perf_counter() - clock, "asked_again": tries.again}
    end["at_work"] = work(began, time.perf_counter() - first)
    yield _table([*rows, end], where, schema)


def _table(rows: list[Row], where: Row, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([row | where for row in rows], schema=schema)


def _wanted(read: Sample | Reject, slice: Slice) -> Sample | Reject | None:
    """What is asked for of it: all, or the pairs at some positions."""
    if slice.only is None:
        return read
    if isinstance(read, Reject):
        return read if read.position in slice.only else None
    captions = tuple(c for c in read.captions if c.position in slice.only)
    return replace(read, position=captions[0].position, captions=captions) if captions else None


def _allowed(read: Sample | Reject, slice: Slice, barred: Barred | None) -> tuple[Sample | Reject | None, list[int]]:
    """What is left of it, and the positions of its pairs that were taken down."""
    if barred is None:
        return read, []
    sample = read.key, read.url, read.sha256
    if isinstance(read, Reject):
        (gone,) = barred.captions(slice.shard.path, sample, [read.caption_index])
        return (None, [read.position]) if gone else (read, [])
    mask = barred.captions(slice.shard.path, sample, [c.index for c in read.captions])
    if not mask.any():
        return read, []
    left = tuple(c for c, gone in zip(read.captions, mask, strict=True) if not gone)
    positions = [c.position for c, gone in zip(read.captions, mask, strict=True) if gone]
    return (replace(read, position=left[0].position, captions=left) if left else None), positions


def _prepared(sample: Sample, config: ReadConfig, preparer: Preparer) -> list[Row]:
    """The sample's row, or a reject row for each of its captions."""
    try:
        decoded = decode(sample.image, config.max_pixels, preparer.resized if config.jpeg_draft else None)
        height, width = decoded.size
        if not preparer.fits(height, width):
            raise Rejected(RejectReason.EXTREME_ASPECT, f"{width} x {height}: a side would be resized to nothing")
    except Rejected as error:
        return [_reject_row(_rejected(sample, caption, error)) for caption in sample.captions]
    square = np.ascontiguousarray(preparer.picture(decoded.picture, decoded.extent))
    tokens = preparer.captions([c.text for c in sample.captions])
    captions = [
        {"position": c.position, "caption_index": c.index, "caption": c.text, "token_ids": ids, "truncated": cut}
        for c, (ids, cut) in zip(sample.captions, tokens, strict=True)
    ]
    return [
        {
            "kind": Kind.SAMPLE,
            "position": sample.position,
            "key": sample.key,
            "url": sample.url,
            "width": width,
            "height": height,
            "sha256": sample.sha256,
            "metadata": sample.metadata,
            "pixels": square.tobytes(),
            "captions": captions,
        }
        | _place(sample.place)
        | sample.keep
    ]


def _rejected(sample: Sample, caption: Caption, error: Rejected) -> Reject:
    where = (caption.position, sample.key, caption.index, caption.text, sample.url, sample.place)
    return Reject(*where, Stage.DECODE, error.reason, error.detail)


def _reject_row(reject: Reject) -> Row:
    row = {n: getattr(reject, n) for n in ("position", "key", "caption_index", "caption", "url")}
    told = {"stage": reject.stage, "reason": reject.reason, "detail": reject.detail}
    return {"kind": Kind.REJECT} | row | _place(reject.place) | told


def _place(place: Place) -> Row:
    return asdict(place)
