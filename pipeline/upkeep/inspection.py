"""One look at a whole table: ids, vectors, counts, books and files. Nothing is written.

Safe beside running jobs: the rows are those of one version, and the books are held against that one.
"""

from dataclasses import dataclass

from pipeline.database import Database
from pipeline.upkeep.accounts import Accounts, Place, read_accounts
from pipeline.upkeep.balance import Rejects, check_records, check_rejects, check_rows, check_runs
from pipeline.upkeep.census import Census, take_census
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.orphans import SUFFIXES, orphans
from pipeline.upkeep.taken import check_taken


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at the whole table gave, besides what it said."""

    accounts: Accounts
    census: Census
    rejects: Rejects
    doubted: set[Place]  # shards whose rows or books cannot be trusted
    taken: int  # rows and rejects that were taken down, and should not be there


def inspect_table(database: Database, findings: Findings) -> Inspection:
    """Check all but whether the vectors are the right ones.

    Raises:
        TableError: there is no such table, or it cannot be read.
    """
    accounts = read_accounts(database)
    findings.version = accounts.rows.version
    doubted = check_records(accounts, findings)
    census = take_census(accounts.rows.dataset, findings)
    doubted |= census.doubted | check_rows(accounts, census, findings)
    rejects = check_rejects(database, accounts, findings)
    if rejects.leftovers:
        rows = sum(one.rows for one in rejects.leftovers)
        text = f"{rows} rejects of {len(rejects.leftovers)} attempts that do not count; compact.py sweeps them"
        findings.warn("rejects left over", text, rows)
    check_runs(database, accounts, findings)
    taken = check_taken(database, accounts.rows.dataset, findings)
    _check_files(database, findings)
    return Inspection(accounts, census, rejects, doubted | rejects.doubted, taken)


def _check_files(database: Database, findings: Findings) -> None:
    for suffix in SUFFIXES:
        if found := orphans(database, suffix):
            text = (
                f"{len(found)} files of {found.size} bytes in {database.path(suffix)} that no version refers to: "
                "of killed writers, or being written now; compact.py --remove-orphans removes them"
            )
            findings.warn("orphans", text, len(found))
