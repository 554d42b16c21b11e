"""Rows in clip-retrieval's layout: image and text vectors as .npy and metadata as parquet, row by row alike.

https://github.com/rom1504/clip-retrieval: `clip-retrieval index` builds its indexes over `img_emb` and `text_emb`,
`clip-retrieval back` shows what `metadata` has, by the row's number.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pipeline.errors import TableError
from pipeline.exports.choice import Choice
from pipeline.exports.flat import RowGroups
from pipeline.exports.output import Folder
from pipeline.schema import EMBEDDING_COLUMNS
from pipeline.stores.storage import join

PART_ROWS = 1_000_000  # as clip-retrieval writes them
_VECTORS = {"img_emb": EMBEDDING_COLUMNS["image"], "text_emb": EMBEDDING_COLUMNS["text"]}


def write_clip_retrieval(folder: Folder, choice: Choice, rows: int, part_rows: int, roots: dict[str, str]) -> None:
    """Write all chosen rows in their order.

    Args:
        folder: to write into.
        choice: which rows.
        rows: how many they are: an .npy tells its length at its beginning.
        part_rows: in one file.
        roots: where each dataset's shards lie, for `image_path`.

    Raises:
        TableError: the table has neither image nor text vectors.
    """
    vectors = {name: column for name, column in _VECTORS.items() if column in choice.dataset.schema.names}
    if not vectors:
        raise TableError(f"{choice.database.shown} holds neither {' nor '.join(_VECTORS.values())}")
    columns = [*choice.columns, *vectors.values()]
    parts = -(-rows // part_rows)
    digits = len(str(parts - 1))
    batches = _Batches(choice.batches(columns))
    schema = _metadata(pa.RecordBatch.from_pylist([], choice.dataset.schema).select(choice.columns), roots).schema
    for part in range(parts):
        count = min(part_rows, rows - part * part_rows)
        number = f"{part:0{digits}}"
        with ExitStack() as files:
            opened = {n: files.enter_context(folder.file(f"{n}/{n}_{number}.npy")) for n in vectors}
            for name, column in vectors.items():
                _begin(opened[name], count, choice.dataset.schema.field(column).type)
            table = files.enter_context(folder.file(f"metadata/metadata_{number}.parquet"))
            groups = files.enter_context(RowGroups(table, schema))
            for batch in batches.next(count):
                for name, column in vectors.items():
                    opened[name].write(batch[column].flatten().to_numpy(zero_copy_only=False).tobytes())
                groups.add(_metadata(batch.select(choice.columns), roots))


class _Batches:
    """Record batches, cut where a part ends."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.RecordBatch | None = None

    def next(self, count: int) -> Iterator[pa.RecordBatch]:
        """The next `count` rows."""
        while count:
            batch = self._left or next(self._batches)
            head, rest = batch.slice(0, count), batch.slice(count)
            self._left = rest if rest.num_rows else None
            count -= head.num_rows
            yield head


def _begin(file: BinaryIO, rows: int, kind: pa.DataType) -> None:
    """The header of an .npy file."""
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, kind.list_size)}
    np.lib.format.write_array_header_1_0(file, told)


def _metadata(rows: pa.RecordBatch, roots: dict[str, str]) -> pa.RecordBatch:
    """The columns by clip-retrieval's names: `image_path` tells the shard and the key in it."""
    places = zip(*(rows[name].to_pylist() for name in ("dataset", "shard", "key")), strict=True)
    paths = [join(roots.get(dataset, dataset), f"{shard}/{key}") for dataset, shard, key in places]
    kept = rows.select([n for n in rows.schema.names if n != "image_path"])
    columns = [pa.array(paths, pa.string()), *kept.columns]
    return pa.RecordBatch.from_arrays(columns, ["image_path", *kept.schema.names])
