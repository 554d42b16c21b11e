"""The tables that a statement can name: the rows, and what the runs have written down."""

from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
from datafusion import SessionContext

from pipeline.database import Database
from pipeline.schema import DUPLICATES, REJECTS, RUNS, SHARDS

SAMPLES = "samples"
COMPANIONS = {
    "rejects": REJECTS,
    "shards": SHARDS,
    "runs": RUNS,
    "duplicates": DUPLICATES,
}  # and their columns where there is none yet


@dataclass(frozen=True, slots=True)
class Tables:
    """One lake's tables as they are read by one statement."""

    database: Database
    samples: Any  # `lance.LanceDataset`
    companions: dict[str, Any]  # those that are there

    @classmethod
    def open(cls, database: Database, version: int | str | None) -> "Tables":
        """The rows at a version or tag, the others at their latest.

        Raises:
            TableError: no such table, version or tag.
        """
        samples = database.require(version)
        opened = {name: database.open(name) for name in COMPANIONS}
        return cls(database, samples, {name: dataset for name, dataset in opened.items() if dataset is not None})

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of each."""
        others = {n: self.companions[n].schema if n in self.companions else s for n, s in COMPANIONS.items()}
        return {SAMPLES: self.samples.schema.names} | {name: schema.names for name, schema in others.items()}

    def register(self, context: SessionContext) -> None:
        """Make them known under their names."""
        for name, dataset in {SAMPLES: self.samples, **self.companions}.items():
            context.register_table(name, lance.FFILanceTableProvider(dataset, with_row_id=False, with_row_addr=False))
        for name, schema in COMPANIONS.items():
            if name not in self.companions:
                context.register_record_batches(name, [[nothing(schema)]])


def nothing(schema: pa.Schema) -> pa.RecordBatch:
    """A batch without rows: DataFusion does not take a table of no batches."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
