"""Files of a table that no version refers to: a killed writer left them, or one is writing them now."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.database import Database, naming

SUFFIXES = ("", "shards", "rejects", "runs", "takedowns", "duplicates", "ticks")  # of `<table>` and its companions
_FOLDERS = ("data/", "_deletions/", "_indices/")


@dataclass(frozen=True, slots=True)
class Orphans:
    """Paths below the table, and their bytes."""

    paths: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)


def orphans(database: Database, suffix: str = "") -> Orphans:
    """Of `<table>_<suffix>`; none if there is no such table."""
    dataset = database.open(suffix)
    if dataset is None:
        return Orphans((), 0)
    with naming("list the files of", database.path(suffix)):
        files = dataset.all_files().read_all().select(["path", "size_bytes"]).to_pylist()
        left = {f["path"]: f["size_bytes"] for f in files if f["path"].startswith(_FOLDERS)}
        dataset.checkout_latest()  # after the listing: what was committed meanwhile is none
        for since in (dataset.version, None):  # most are in the latest version; the others are many
            if left:
                for batch in dataset.tracked_files(min_version=since):
                    for path in batch["path"].to_pylist():
                        left.pop(path, None)
    return Orphans(tuple(sorted(left)), sum(left.values()))


def quiet_for(database: Database) -> timedelta:
    """How long ago the latest file of the table or of a companion was written, by the store's clock and ours."""
    latest = None
    for suffix in SUFFIXES:
        if (dataset := database.open(suffix)) is not None:
            with naming("list the files of", database.path(suffix)):
                times = dataset.all_files().read_all()["last_modified"].to_pylist()
            latest = max([*times, *([latest] if latest else [])])
    return datetime.now(UTC) - latest if latest else timedelta.max
