"""Where reports are: in `<table>_reports`, beside the table, one file a run."""

from obstore.exceptions import BaseError

from pipeline.database import Database
from pipeline.errors import TableError
from pipeline.stores.exclusive import store_at
from pipeline.stores.storage import explain, join, redact


def write_report(database: Database, run_id: str, html: str) -> str:
    """Write a run's report, whole or not at all; returns its path or URL."""
    name = f"{_folder(database)}/{run_id}.html"
    store_at(database.uri).create(name, html.encode("utf-8", errors="backslashreplace"))
    return redact(join(database.uri, name))


def remove_reports(database: Database) -> int:
    """Remove all reports of a table, since they show pictures and captions of its rows; returns how many there were.

    Raises:
        TableError: the store does not let us.
    """
    try:
        store = store_at(database.uri)
        names = store.names(_folder(database))
        for name in names:
            store.remove(name)
    except (BaseError, OSError) as error:
        where = redact(join(database.uri, _folder(database)))
        raise TableError(f"cannot remove the reports in {where}: {explain(error)}") from error
    return len(names)


def _folder(database: Database) -> str:
    return f"{database.table}_reports"
