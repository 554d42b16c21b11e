"""Arrow schemas and column names of every table, and of the batches that travel between the stages.

The batches are flat: each row is of one `Kind`, and the columns that its kind does not use are null.

    read + decode + prepare        PREPARED   sample, reject, taken_down, end
    embed                          EMBEDDED   pair, reject, taken_down, end, call
    table                          rows_schema (`<table>`) and REJECTS (`<table>_rejects`)
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum

import pyarrow as pa

from pipeline.config import TAG_COLUMNS, VECTORS, Keep, Tagging

TAGS_KEY = b"bridgelake.tags"  # in the column's own metadata: what it was asked for


class Kind(StrEnum):
    """What a row of a travelling batch is."""

    SAMPLE = "sample"  # one picture with its captions, prepared, not yet embedded
    PAIR = "pair"  # one embedded pair
    REJECT = "reject"  # one pair that cannot become a row
    TAKEN_DOWN = "taken_down"  # one pair that was taken down: nothing but its position
    END = "end"  # the slice was read to its end (`pairs`), or could not be (`detail`)
    CALL = "call"  # one model call: `pairs` embedded in `seconds`


VALUE_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}

# Which slice, which try at it, and which of its pairs: on every row of every travelling batch.
WHERE = [
    pa.field("kind", pa.string(), nullable=False),
    pa.field("slice", pa.string()),
    pa.field("attempt", pa.string()),
    pa.field("position", pa.int64()),  # of the pair (of a sample: of its first pair) in the slice
]

# What is known of a pair before it is embedded; these are columns of `<table>`.
SOURCE = [
    pa.field("shard", pa.string()),  # relative to the dataset's root
    pa.field("key", pa.string()),
    pa.field("caption_index", pa.int32()),
    pa.field("caption", pa.string()),
    pa.field("url", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),  # of the image's bytes, hexadecimal
    pa.field("image_offset", pa.int64()),
    pa.field("image_length", pa.int64()),
    pa.field("row_group", pa.int32()),
    pa.field("row_in_group", pa.int32()),
    pa.field("metadata", pa.string()),  # JSON text of what was not kept as a column
]

# Who did the work of an end or call record, and when.
AT_WORK = pa.struct(
    [pa.field("worker", pa.string()), pa.field("began", pa.float64()), pa.field("seconds", pa.float64())]
)

# Why a pair was rejected, and what an end or call record reports.
REPORT = [
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("pairs", pa.int64()),
    pa.field("truncated", pa.bool_()),  # of a pair: its caption was cut to the model's limit
    pa.field("seconds", pa.float64()),
    pa.field("fingerprint", pa.string()),  # of an end record: of all that was read
    pa.field("at_work", AT_WORK),
    pa.field("asked_again", pa.int64()),  # of an end record: how often the store was, after an error
]

# A sample's captions; its pairs are at consecutive positions less those rejected while reading.
CAPTIONS = pa.list_(
    pa.struct(
        [
            pa.field("position", pa.int64()),
            pa.field("caption_index", pa.int32()),
            pa.field("caption", pa.string()),
            pa.field("token_ids", pa.list_(pa.int32())),
            pa.field("truncated", pa.bool_()),  # cut to the model's limit
        ]
    )
)

EMBEDDING_COLUMNS = {"image": "image_embedding", "text": "text_embedding", "cross": "cross_embedding"}

REJECTS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        *(f for f in WHERE if f.name != "kind"),
        *(f for f in SOURCE if f.name not in ("width", "height", "sha256", "metadata")),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)

SHARDS = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("root", pa.string()),  # where the dataset's shards lie; the latest row counts
        pa.field("read_as", pa.string()),  # which caption and image keys the dataset was read with
        pa.field("shard", pa.string()),
        pa.field("slice", pa.string()),
        pa.field("slices", pa.int32()),  # how many slices the shard was cut into
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),  # ETag, or the modification time where the store has none
        pa.field("fingerprint", pa.string()),  # of all that was read: the same after a copy or a touch
        pa.field("attempt", pa.string()),  # under which the slice's rejects are written
        pa.field("outcome", pa.string()),  # see ledger.Outcome
        pa.field("replaces", pa.bool_()),  # what the ledger knew of the shard before is over
        pa.field("error", pa.string()),
        pa.field("read", pa.int64()),  # pairs; = embedded + rejected + taken_down
        pa.field("embedded", pa.int64()),
        pa.field("rejected", pa.int64()),
        pa.field("taken_down", pa.int64()),
        pa.field("truncated", pa.int64()),
        pa.field("seconds", pa.float64()),  # of workers, for reading, preparing and writing it
        pa.field("version", pa.int64()),  # of `<table>` with this slice's rows in it; null if not committed
        pa.field("run_id", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)

# Of id, url and sha256 one is set: that pair, every pair with exactly that URL, every pair of that picture.
TAKEDOWNS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("why", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)

DUPLICATES = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("duplicate_of", pa.string()),  # the lowest id of its group
        pa.field("cosine", pa.float32()),  # of the two pictures
    ]
)

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("started", pa.timestamp("us", tz="UTC")),
        pa.field("ended", pa.timestamp("us", tz="UTC")),
        pa.field("outcome", pa.string()),
        pa.field("configuration", pa.string()),  # JSON
        pa.field("versions", pa.string()),  # JSON: of the libraries
        pa.field("compute", pa.string()),  # JSON: device, dtype, actors
        pa.field("summary", pa.string()),  # JSON: counts, seconds, throughput
    ]
)

# What happened to a scheduled tick: it started, it was alive, it ended; and from when on which cron line held.
TICKS = pa.schema(
    [
        pa.field("tick", pa.string()),
        pa.field("event", pa.string()),  # see ticks.book.Event
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("host", pa.string()),  # of the process that runs it: where it is, and which one there
        pa.field("process", pa.string()),
        pa.field("cron", pa.string()),
        pa.field("timezone", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("why", pa.string()),
        pa.field("summary", pa.string()),  # JSON
    ]
)


def keep_fields(keep: Sequence[Keep]) -> list[pa.Field]:
    """The columns that the user asked to keep, by name; their types must be known by now."""
    return [pa.field(k.name, VALUE_TYPES[k.type or "string"]) for k in sorted(keep, key=lambda k: k.name)]


def tag_fields(tagging: Tagging | None) -> list[pa.Field]:
    """A picture's words, the likeliest first, and their probabilities. Two lists: filters know no list of structs."""
    if tagging is None:
        return []
    words, probabilities = TAG_COLUMNS
    asked = {TAGS_KEY: json.dumps(asdict(tagging), sort_keys=True)}
    return [pa.field(words, pa.list_(pa.string()), metadata=asked), pa.field(probabilities, pa.list_(pa.float32()))]


def tagging_of(schema: pa.Schema) -> Tagging | None:
    """What a table's tags were asked for; None if it has none, or a column of that name which is the user's."""
    words = TAG_COLUMNS[0]
    asked = (schema.field(words).metadata or {}).get(TAGS_KEY) if words in schema.names else None
    return Tagging(**json.loads(asked)) if asked else None


def prepared_schema(keep: Sequence[Keep]) -> pa.Schema:
    """Batches from the readers to the actors. `pixels` is a uint8 square, height x width x 3."""
    pixels = [pa.field("pixels", pa.large_binary()), pa.field("captions", CAPTIONS)]
    return pa.schema([*WHERE, *SOURCE, *pixels, *REPORT, *keep_fields(keep)])


def embedded_schema(
    keep: Sequence[Keep], vectors: Sequence[str], dimension: int, storage: str, tags: Tagging | None = None
) -> pa.Schema:
    """Batches from the actors to the writers."""
    made = [*vector_fields(vectors, dimension, storage), *tag_fields(tags)]
    return pa.schema([*WHERE, *SOURCE, *made, *REPORT, *keep_fields(keep)])


def vector_fields(vectors: Sequence[str], dimension: int, storage: str) -> list[pa.Field]:
    """The embedding columns (fixed-size lists, `dimension` wide) and the two scores, always in one order."""
    values = pa.float16() if storage == "float16" else pa.float32()
    lists = [pa.field(EMBEDDING_COLUMNS[v], pa.list_(values, dimension)) for v in VECTORS if v in vectors]
    return [*lists, pa.field("itc_score", pa.float32()), pa.field("itm_score", pa.float32())]


def rows_schema(
    keep: Sequence[Keep], vectors: Sequence[str], dimension: int, storage: str, tags: Tagging | None = None
) -> pa.Schema:
    """`<table>`: one row an embedded pair."""
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("dataset", pa.string()),
            *SOURCE,
            *vector_fields(vectors, dimension, storage),
            *tag_fields(tags),
            *keep_fields(keep),
            pa.field("run_id", pa.string()),
        ]
    )
