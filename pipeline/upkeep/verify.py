"""Whether every promise about a table holds; and, if told to, what can be mended is."""

from pipeline.contract import require_contract
from pipeline.database import Database
from pipeline.embed import Model
from pipeline.table import Rows
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.inspection import inspect_table
from pipeline.upkeep.repair import repair
from pipeline.upkeep.spot_check import check_sample


def verify(database: Database, model: Model | None = None, sample: int = 20, mend: bool = False) -> Findings:
    """Check all that is promised of `<table>` and its companions.

    Args:
        database: where the table is.
        model: the one that the table was made with; None to embed nothing again.
        sample: how many rows are embedded again.
        mend: derive what is wrong or missing anew, where that can be done; else nothing is written.

    Raises:
        TableError: there is no such table, or it cannot be read or mended.
        ContractError: the table was made with another model.
    """
    if model is not None and (rows := Rows.open(database)) is not None:
        require_contract(database.path(), rows.contract, model.contract)  # before a long look at all rows
    findings = Findings()
    found = inspect_table(database, findings)
    if mend:
        findings, found = repair(database, found)
    if model is not None and sample:
        check_sample(database, found.accounts, model, sample, findings)
    return findings
