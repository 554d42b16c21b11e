"""Whether anything that was taken down is still, or again, in the table or among the rejects."""

from collections.abc import Iterator
from contextlib import suppress

import lance

from pipeline.barred import COLUMNS, Takedowns
from pipeline.database import Database, naming
from pipeline.errors import LedgerError
from pipeline.takedowns import read_takedowns, strike, values_in
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.takedown import find_rejects, take_down

_BATCH = 4096
_HOW = "delete.py was killed, or runs now: the same command again, or verify.py --repair"


def check_taken(database: Database, dataset: lance.LanceDataset, findings: Findings) -> int:
    """Look at every row and reject; returns how many should not be there."""
    takedowns = read_takedowns(database)
    if not len(takedowns):
        return 0
    findings.checked["takedowns"] = len(takedowns)
    rows = 0
    for _, id_ in _rows(dataset, takedowns):
        findings.problem("taken down", f"id {id_} was taken down and is in the table: {_HOW}")
        rows += 1
    rejects = len(find_rejects(database.open("rejects"), takedowns, set(), None).row_ids)
    if rejects:
        findings.problem("taken down", f"{rejects} rejects are of pairs that were taken down: {_HOW}", rejects)
    return rows + rejects


def _rows(dataset: lance.LanceDataset, takedowns: Takedowns) -> Iterator[tuple[int, str]]:
    with naming("read", dataset.uri):
        for batch in dataset.scanner(columns=list(COLUMNS), batch_size=_BATCH, with_row_id=True).to_batches():
            for i in takedowns.rows(batch).nonzero()[0]:
                yield batch["_rowid"][i].as_py(), batch["id"][i].as_py()


def finish_takedowns(database: Database) -> list[str]:
    """Remove what should not be there; says what was done.

    Where the ledger contradicts the table the rows go all the same: such a shard is counted anew afterwards.
    """
    companion = database.open("takedowns")
    if companion is None:
        return []
    values = {column: tuple(some) for column, some in values_in(database, companion).items()}
    with suppress(LedgerError):
        removed = take_down(database, values, "")
        return [f"{removed.rows} rows and {removed.rejects} rejects that were taken down were removed"]
    takedowns = read_takedowns(database)
    rows = strike(database, "", lambda table: [row_id for row_id, _ in _rows(table, takedowns)])
    rejects = strike(database, "rejects", lambda table: find_rejects(table, takedowns, set(), None).row_ids)
    return [f"{rows} rows and {rejects} rejects that were taken down were removed"]
