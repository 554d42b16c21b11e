"""How embedded pairs are laid out, and what a model gave for some of them -> rows so laid out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Keep, Tagging
from pipeline.errors import RejectReason, Stage
from pipeline.given import Arrays, Problems
from pipeline.schema import EMBEDDING_COLUMNS, Kind, embedded_schema, tag_fields


@dataclass(frozen=True, slots=True)
class Stored:
    """How embedded pairs are laid out: which vectors, their dimension and storage type, kept columns, and tags."""

    vectors: tuple[str, ...]
    dimension: int
    storage: str
    keep: tuple[Keep, ...]
    tags: Tagging | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of the batches that leave the actors."""
        return embedded_schema(self.keep, self.vectors, self.dimension, self.storage, self.tags)


def rows_of(
    of_image: pa.Table, captions: pa.ChunkedArray, arrays: Arrays, problems: Problems, stored: Stored
) -> pa.Table:
    """A row for each pair, in `stored.schema`: embedded, or a reject where there is a problem.

    Args:
        of_image: for each pair, what is known of its sample.
        captions: for each pair, its caption.
        arrays: for each pair, what the model gave.
        problems: for each pair, what is wrong with that.
        stored: the layout.
    """
    bad = pa.array([problem is not None for problem in problems])
    columns = {name: of_image[name] for name in of_image.column_names}
    for name in ("position", "caption_index", "caption", "truncated"):
        columns[name] = pc.struct_field(captions, name)
    columns["kind"] = pc.if_else(bad, Kind.REJECT, Kind.PAIR)
    columns["detail"] = pa.array(problems, pa.string())
    columns["reason"] = pc.if_else(bad, RejectReason.NOT_FINITE, pa.scalar(None, pa.string()))
    columns["stage"] = pc.if_else(bad, Stage.EMBED, pa.scalar(None, pa.string()))
    for vector in stored.vectors:
        columns[EMBEDDING_COLUMNS[vector]] = _fixed_size_list(arrays[vector], stored.storage)
    columns["itc_score"] = pa.array(arrays["itc_score"], pa.float32())
    columns["itm_score"] = pa.array(arrays["itm_score"], pa.float32())
    for field in tag_fields(stored.tags):
        columns[field.name] = pa.array(list(arrays[field.name]), field.type)
    return conform(pa.table(columns), stored.schema)


def _fixed_size_list(vectors: npt.NDArray[np.float32], storage: str) -> pa.Array:
    values = pa.array(vectors.astype(storage).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with the columns of `schema`, null where the table lacks them."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
