"""Examples of a run's rejects: a few of each reason, from the newest of `<table>_rejects`."""

from collections import defaultdict
from collections.abc import Collection, Iterator

import lance
import pyarrow as pa

from pipeline.database import Database, naming
from pipeline.fetch import Row

EACH = 2  # of one reason
_MOST_ROWS = 200_000  # to look at; rejects of other jobs lie among them
_COLUMNS = ["shard", "key", "caption", "image_offset", "image_length", "row_group", "row_in_group"]


def examples(database: Database, run_id: str, reasons: Collection[str], most: int = _MOST_ROWS) -> dict[str, list[Row]]:
    """Reason -> some of its rejects, of different samples; none for a reason that was not met among the newest.

    Raises:
        TableError: the rejects cannot be read.
    """
    found: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    dataset = database.open("rejects") if reasons else None
    if dataset is not None:
        with naming("read", database.path("rejects")):
            for batch in _newest(dataset, f"run_id = '{run_id}'", most):
                for row in batch.to_pylist():
                    reason = row.pop("reason")
                    if reason in reasons and len(found[reason]) < EACH:
                        found[reason][row["shard"], row["key"]] = row
                if len(found) == len(reasons) and all(len(few) == EACH for few in found.values()):
                    break
    return {reason: list(few.values()) for reason, few in found.items()}


def _newest(dataset: lance.LanceDataset, condition: str, most: int) -> Iterator[pa.RecordBatch]:
    left = most
    for fragment in sorted(dataset.get_fragments(), key=lambda f: -f.fragment_id):
        if left <= 0:
            return
        left -= fragment.physical_rows
        columns = [*_COLUMNS, "reason", "detail"]
        yield from dataset.scanner(columns, condition, fragments=[fragment]).to_batches()
