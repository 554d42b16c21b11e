"""A row of the table -> its picture again, read in place from the shard and checked against `sha256`."""

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.errors import FetchError, ShardError
from pipeline.parquet import ParquetShard, byte_columns, image_bytes, image_columns
from pipeline.shards import Format, gzipped, sniff
from pipeline.stores.retry import call
from pipeline.stores.storage import FIRST_BYTES, connect, join, open_file, reading

Row = Mapping[str, Any]
Answer = bytes | FetchError

_THREADS = 16


def fetch_image(row: Row, root: str) -> bytes:
    """The picture of one row.

    Args:
        row: `shard`, `key`, `sha256` and where the picture lies, as in the table.
        root: of the row's dataset.

    Raises:
        FetchError: the shard cannot be read, or the picture is no longer there.
    """
    answer = fetch_images([row], root)[0]
    if isinstance(answer, FetchError):
        raise answer
    return answer


def fetch_images(rows: Sequence[Row], root: str) -> list[Answer]:
    """The pictures of several rows in their order, several at a time; an error stands where one cannot be had.

    Rejects have no `sha256`: theirs come unchecked.
    """
    shared: dict[tuple[str, object], list[int]] = defaultdict(list)  # what one pass over a shard gives
    answers: list[Answer] = [_failed(row, "the table does not tell where it lies") for row in rows]
    for i, row in enumerate(rows):
        if row["shard"] is None or (row.get("row_group") is None and row.get("image_offset") is None):
            continue
        streamed = row.get("row_group") is not None or gzipped(row["shard"])
        shared[row["shard"], row.get("row_group") if streamed else (*_span(row), row.get("sha256"))].append(i)
    with ThreadPoolExecutor(max(1, min(_THREADS, len(shared)))) as pool:
        jobs = [(indexes, pool.submit(_fetch, [rows[i] for i in indexes], root)) for indexes in shared.values()]
        for indexes, job in jobs:
            for i, answer in zip(indexes, job.result(), strict=True):
                answers[i] = answer
    return answers


def _fetch(rows: list[Row], root: str) -> list[Answer]:
    """Rows of one shard: those of one picture of a tar, or all of a gzipped tar or of one row group."""
    uri = join(root, rows[0]["shard"])
    try:
        with reading(uri):
            if rows[0].get("row_group") is not None:
                return _from_parquet(rows, uri)
            return _from_gzip(rows, uri) if gzipped(rows[0]["shard"]) else [_from_tar(rows[0], uri)] * len(rows)
    except ShardError as error:
        return [_failed(row, error.why) for row in rows]


def _failed(row: Row, why: str) -> FetchError:
    return FetchError(
        f"the picture {row['key']} of shard {row['shard']} cannot be fetched: {why}. "
        "If the data moved, give its new place with --source-root; if the shard changed, embed it again"
    )


def _is_it(row: Row, image: bytes | None) -> bool:
    if image is None or "sha256" not in row:  # a reject's was never computed
        return image is not None
    return bool(hashlib.sha256(image).hexdigest() == row["sha256"])


def _checked(row: Row, image: bytes | None) -> Answer:
    if image is not None and _is_it(row, image):
        return image
    return _failed(row, "what lies there now has another sha256 than the row" if "sha256" in row else "there is none")


def _from_tar(row: Row, uri: str) -> Answer:
    store, path = connect(uri)
    start, length = row["image_offset"], row["image_length"]
    image = bytes(call(store.cat_file, path, start=start, end=start + length))
    if len(image) > length:  # a web server that knows no ranges sends all
        image = image[start : start + length]
    if not _is_it(row, image) and sniff(call(store.cat_file, path, start=0, end=FIRST_BYTES)) == Format.TAR_GZ:
        return _from_gzip([row], uri)[0]  # gzipped, under a name that does not say so
    return _checked(row, image)


def _from_gzip(rows: list[Row], uri: str) -> list[Answer]:
    """Decompress once up to the last of the pictures; captions of one picture share it, since there is no way back."""
    found: dict[tuple[int, int], bytes] = {}
    with open_file(uri) as file, gzip.GzipFile(fileobj=file) as stream:
        for offset, length in sorted({_span(row) for row in rows}):
            stream.seek(offset)
            found[offset, length] = stream.read(length)
    return [_checked(row, found[_span(row)]) for row in rows]


def _span(row: Row) -> tuple[int, int]:
    return int(row["image_offset"]), int(row["image_length"])


def _from_parquet(rows: list[Row], uri: str) -> list[Answer]:
    """Read the image column of one row group up to the last of the rows.

    The table does not tell which column was read, but the sha256 does.
    """
    with open_file(uri) as file:
        shard = ParquetShard(file)
        if rows[0]["row_group"] >= shard.footer.num_row_groups:
            raise ShardError(uri, f"it has no row group {rows[0]['row_group']} any more")
        likely = image_columns(shard.schema, None)
        answers: list[Answer] = [_checked(row, None) for row in rows]
        for column in [*likely, *(c for c in byte_columns(shard.schema) if c not in likely)]:
            left = [i for i, a in enumerate(answers) if isinstance(a, FetchError)]
            if not left:
                break
            images = _column(shard, rows[0]["row_group"], column, {rows[i]["row_in_group"] for i in left})
            for i in left:
                answers[i] = _checked(rows[i], images.get(rows[i]["row_in_group"]))
    return answers


def _column(shard: ParquetShard, group: int, column: str, wanted: Iterable[int]) -> dict[int, bytes | None]:
    """Some rows of an image column."""
    images: dict[int, bytes | None] = {}
    rows = sorted(wanted)
    start = 0
    for batch in shard.batches(group, [column]):
        here = [r for r in rows if start <= r < start + batch.num_rows]
        images.update({r: image_bytes(batch.column(0)[r - start].as_py()) for r in here})
        start += batch.num_rows
        if start > rows[-1]:
            break
    return images
