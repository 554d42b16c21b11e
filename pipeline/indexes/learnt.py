"""What an index learns from a sample before it takes in any row: the same for all of its parts.

Lance would learn it too, and find each row's partition, but on float16 without the processor's help: of a build
of a million rows, 9 parts in 10. So both are done here, and Lance is given the outcome.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import LanceFragment
from lance.lance import indices

from pipeline.embed import Vectors
from pipeline.indexes.centroids import kmeans, nearest_centre, sample, vectors_of
from pipeline.indexes.kinds import Choice

SAMPLE = 40  # vectors a partition
_LARGEST = 4_000_000  # vectors in a sample: 8 GB at 512 wide
_CODES = 256  # values of one code of product quantisation
_CODED = 65_536  # vectors that they are learnt from
_BATCH = 16_384  # rows
_HELD = 200_000_000  # rows whose partitions Lance holds in memory; beyond, it finds them itself


@dataclass(frozen=True, slots=True)
class Learnt:
    """Centres of the partitions (partitions, dimension), and how vectors are shortened."""

    choice: Choice
    centres: Vectors
    codebook: pa.FixedSizeListArray | None = None  # of product quantisation
    rotation: str | None = None  # of one bit a dimension

    @property
    def settings(self) -> dict[str, Any]:
        """What Lance is told for a part of the index."""
        told = {"metric": "cosine", "num_partitions": len(self.centres), "ivf_centroids": self.centres}
        told |= self.choice.settings(self.centres.shape[1])
        told |= {} if self.codebook is None else {"pq_codebook": self.codebook}
        return told | ({} if self.rotation is None else {"rabitq_model": self.rotation})


def learn(dataset: lance.LanceDataset, column: str, choice: Choice, seed: int = 0) -> Learnt:
    """Learn from a sample of a column; the same for the same rows and seed."""
    rng = np.random.default_rng(seed)
    wanted = max(choice.partitions * SAMPLE, _CODED if "pq" in choice.kind else 0)
    vectors = sample(dataset, column, min(wanted, _LARGEST), rng)
    centres = kmeans(vectors, choice.partitions, rng)
    if "pq" in choice.kind:
        value_type = dataset.schema.field(column).type.value_type
        return Learnt(choice, centres, _codebook(vectors[:_CODED], centres, choice, value_type, rng))
    if choice.kind == "ivf_rq":
        return Learnt(choice, centres, rotation=indices.build_rq_model(dimension=centres.shape[1], num_bits=1))
    return Learnt(choice, centres)


def _codebook(
    vectors: Vectors, centres: Vectors, choice: Choice, value_type: pa.DataType, rng: np.random.Generator
) -> pa.FixedSizeListArray:
    """For each stretch of dimensions 256 centres of what is left of vectors when their partition's is taken away."""
    left = vectors - centres[nearest_centre(vectors, centres)]
    stretches = np.split(left, choice.settings(left.shape[1])["num_sub_vectors"], axis=1)
    books = np.concatenate([kmeans(np.ascontiguousarray(one), _CODES, rng) for one in stretches])
    return pa.FixedSizeListArray.from_arrays(pa.array(books.reshape(-1)).cast(value_type), books.shape[1])


@contextmanager
def assigned(
    dataset: lance.LanceDataset, column: str, learnt: Learnt, fragments: Sequence[LanceFragment]
) -> Iterator[dict[str, Any]]:
    """Each row's partition, found here and handed to Lance in a file that goes afterwards.

    Args:
        dataset: the table.
        column: of vectors.
        learnt: from them.
        fragments: whose rows.
    """
    if dataset.count_rows() > _HELD:
        yield {}
        return
    scanner = dataset.scanner(
        columns=[column], with_row_id=True, batch_size=_BATCH, fragments=fragments, filter=f"{column} IS NOT NULL"
    )
    schema = pa.schema({"row_id": pa.uint64(), "partition": pa.uint32()})

    def found() -> Iterator[pa.RecordBatch]:
        for batch in scanner.to_batches():
            mine = nearest_centre(vectors_of(batch[column]), learnt.centres)
            columns = [batch["_rowid"].cast(pa.uint64()), pa.array(mine.astype(np.uint32))]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "partitions.lance"))
        reader = pa.RecordBatchReader.from_batches(schema, found())
        lance.write_dataset(reader, path, max_rows_per_file=_HELD)  # in one file, as it is expected
        yield {"precomputed_partition_dataset": path}
