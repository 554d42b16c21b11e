"""A table at a version or a tag."""

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipeline.database import Database
from pipeline.errors import TableError
from pipeline.versions import ranges
from tests.moulds import Moulds


def three_versions(folder: Path) -> Database:
    """The second tagged."""
    database = Database(str(folder), "laion")
    for i in range(3):
        lance.write_dataset(pa.table({"a": [i]}), database.path(), mode="append")
    lance.dataset(database.path()).tags.create("live", 2)
    return database


@pytest.fixture
def database(moulds: Moulds) -> Database:
    return moulds.cast(three_versions)


@pytest.mark.parametrize(("version", "rows"), [(None, 3), (1, 1), ("2", 2), ("live", 2)])
def test_table_opens_at_a_version_or_a_tag(database: Database, version: int | str | None, rows: int) -> None:
    dataset = database.open(version=version)
    assert dataset is not None
    assert dataset.count_rows() == rows


@pytest.mark.parametrize("version", [9, "9", "0", "dead", "", "²", "../other.lance", "main"])
def test_unknown_version_is_refused_with_those_that_exist(database: Database, version: int | str) -> None:
    with pytest.raises(TableError, match=r"has no version .*: the versions are 1 to 3, the tags are live$"):
        database.open(version=version)


def test_version_of_a_table_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert Database(str(tmp_path), "laion").open(version="live") is None


def test_ranges_are_short() -> None:
    assert ranges([3, 1, 2, 9, 7]) == "1 to 3, 7, 9"
    assert ranges([]) == ""
