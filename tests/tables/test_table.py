"""Opening, creating and committing; what Lance itself does is asked in tests/contract."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import lancedb
import pyarrow as pa
import pytest

import pipeline.removal
from pipeline.config import Keep
from pipeline.contract import Layout, require_contract
from pipeline.database import Database, naming, storage_options
from pipeline.errors import CommitConflictError, ContractError, TableError
from pipeline.records import properties
from pipeline.schema import rows_schema
from pipeline.table import Change, Rows, commit, latest, open_or_create
from pipeline.write import write_jobs
from tests.blocks import LAYOUT, STORED, block, job, pair, record, target
from tests.fakes import CONTRACT

NUMBERS = pa.table({"n": [1, 2]})


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path), "laion")


def fragments(database: Database, attempt: str, rows: int = 1) -> list[str]:
    where = target(Path(database.uri))
    made = write_jobs(where, [job(attempt, *range(rows))], block(*(pair(attempt, p) for p in range(rows))))
    return list(made[0].fragments)


def change(fragments: list[str], properties: dict[str, str]) -> Change:
    return Change(fragments, properties, "laion")


def test_open_of_a_table_that_is_not_there_is_none(database: Database) -> None:
    assert database.open() is None
    assert Rows.open(database) is None


def test_open_of_a_table_that_is_damaged_is_an_error_and_not_an_absence(database: Database, tmp_path: Path) -> None:
    open_or_create(database, LAYOUT)
    for manifest in (tmp_path / "laion.lance" / "_versions").iterdir():
        manifest.write_bytes(b"damaged")
    with pytest.raises(TableError, match=r"cannot open .*laion.lance"):
        database.open()


def test_create_makes_an_empty_table_that_plain_lancedb_opens(database: Database, tmp_path: Path) -> None:
    rows = open_or_create(database, LAYOUT)
    assert (rows.version, rows.contract) == (1, CONTRACT)
    assert open_or_create(database, LAYOUT).version == 1
    assert lancedb.connect(tmp_path).open_table("laion").count_rows() == 0


def test_append_by_several_at_once_to_where_nothing_was_loses_nothing(database: Database) -> None:
    gate = Barrier(4)

    def append(n: int) -> None:
        gate.wait()
        database.append("runs", pa.table({"n": [n]}))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    dataset = database.open("runs")
    assert sorted(database.scan("runs", dataset, ["n"])["n"].to_pylist()) == [0, 1, 2, 3]


def test_append_of_other_columns_names_the_table(database: Database) -> None:
    database.append("runs", NUMBERS)
    with pytest.raises(TableError, match=r"cannot write .*laion_runs.lance"):
        database.append("runs", pa.table({"other": ["x"]}))


def test_commit_on_an_empty_table_and_on_one_with_rows(database: Database) -> None:
    empty = open_or_create(database, LAYOUT)
    one = commit(database, empty, LAYOUT, change(fragments(database, "a", 2), {}))
    two = commit(database, one, LAYOUT, change(fragments(database, "b"), {}))
    none = commit(database, two, LAYOUT, change([], {}))
    assert [r.dataset.count_rows() for r in (empty, one, two, none)] == [0, 2, 3, 3]
    assert (none.version, none.contract) == (4, CONTRACT)


@pytest.mark.parametrize(("filled", "near"), [(False, 100), (True, 100), (True, 0)])
def test_commit_on_a_version_that_another_has_built_on_is_a_conflict(
    database: Database, monkeypatch: pytest.MonkeyPatch, filled: bool, near: int
) -> None:
    monkeypatch.setattr(pipeline.removal, "_NEAR", near)  # 0: as if the lowest fragment had a high number
    base = open_or_create(database, LAYOUT)
    if filled:
        base = commit(database, base, LAYOUT, change(fragments(database, "a"), {}))
    commit(database, base, LAYOUT, change(fragments(database, "b"), {}))
    with pytest.raises(CommitConflictError, match=r"cannot commit to .*laion.lance: somebody else committed first"):
        commit(database, base, LAYOUT, change(fragments(database, "c"), {}))


def test_commits_since_gives_what_each_version_carried(database: Database) -> None:
    a, b, c = (record(name) for name in "abc")
    rows = open_or_create(database, LAYOUT)
    rows = commit(database, rows, LAYOUT, change(fragments(database, "a"), properties([a])))
    rows.dataset.update_config({"someone": "else"})
    newer = commit(database, latest(database), LAYOUT, change([], properties([b, c])))
    assert list(newer.commits_since(0)) == [(2, [a]), (4, [b, c])]
    assert [version for version, _ in newer.commits_since(2)] == [4]
    assert list(newer.commits_since(4)) == []


def test_commits_since_passes_over_a_compaction_that_the_library_cannot_show(database: Database) -> None:
    rows = open_or_create(database, LAYOUT)
    for name in "ab":
        rows = commit(database, rows, LAYOUT, change(fragments(database, name), properties([record(name)])))
    rows.dataset.create_scalar_index("id", "BTREE")
    rows.dataset.optimize.compact_files()
    newer = latest(database)
    assert newer.version > 4
    assert [records for _, records in newer.commits_since(0)] == [[record("a")], [record("b")]]


def test_commits_since_a_version_that_was_cleaned_up_is_an_error(database: Database) -> None:
    rows = open_or_create(database, LAYOUT)
    for name in "ab":
        rows = commit(database, rows, LAYOUT, change(fragments(database, name), {}))
    rows.dataset.cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(TableError, match=r"cannot read the transaction of version 1 of .*laion.lance"):
        list(rows.commits_since(0))


def test_check_refuses_another_contract_and_shows_both(database: Database) -> None:
    open_or_create(database, LAYOUT)
    other = Layout(LAYOUT.schema, replace(CONTRACT, weights="v" * 8, checkpoint="theirs"))
    with pytest.raises(ContractError, match="made with another model") as error:
        open_or_create(database, other)
    assert "weights: the table has 'wwwwwwww', this model 'vvvvvvvv'" in str(error.value)
    assert "checkpoint: the table has 'fake', this model 'theirs'" in str(error.value)
    assert "dimension" not in str(error.value)


def test_contract_of_the_same_weights_under_another_name_is_the_same() -> None:
    require_contract("t", CONTRACT, replace(CONTRACT, checkpoint="a mirror", revision="a commit"))


@pytest.mark.parametrize("field", ["weights", "preprocessing", "dimension"])
def test_contract_that_differs_in_what_makes_vectors_is_another(field: str) -> None:
    with pytest.raises(ContractError, match=field):
        require_contract("t", CONTRACT, replace(CONTRACT, **{field: 9}))


def test_check_refuses_fewer_vectors_and_names_them(database: Database) -> None:
    open_or_create(database, LAYOUT)
    schema = rows_schema([Keep("similarity", "float32")], ("image", "text"), 4, "float16")
    with pytest.raises(ContractError, match=r"this run would write no cross_embedding; the table has id string"):
        open_or_create(database, Layout(schema, CONTRACT))
    assert "similarity" not in latest(database).schema.names


def test_check_refuses_a_vector_that_the_table_lacks_and_another_type(database: Database) -> None:
    open_or_create(database, Layout(rows_schema([Keep("n", "int64")], ("image", "text"), 4, "float16"), CONTRACT))
    with pytest.raises(ContractError, match=r"would write cross_embedding fixed_size_list"):
        open_or_create(database, LAYOUT)
    other = Layout(rows_schema([Keep("n", "string")], ("image", "text"), 4, "float16"), CONTRACT)
    with pytest.raises(ContractError, match=r"would write n string; the table has .*n int64"):
        open_or_create(database, other)


def test_new_columns_are_added_by_name_and_null_where_they_were_not(database: Database) -> None:
    rows = open_or_create(database, LAYOUT)
    commit(database, rows, LAYOUT, change(fragments(database, "a", 2), {}))
    wider = Layout(rows_schema([Keep("similarity", "float32")], STORED.vectors, 4, "float16"), CONTRACT)
    rows = open_or_create(database, wider)
    assert rows.schema.field("similarity").type == pa.float32()
    assert open_or_create(database, wider).version == rows.version
    assert open_or_create(database, LAYOUT).version == rows.version
    rows = commit(database, rows, wider, change(fragments(database, "b"), {}))
    assert rows.dataset.to_table(columns=["similarity"])["similarity"].to_pylist() == [None] * 3


def test_commit_replaces_the_rows_of_a_shard_and_of_no_other(database: Database) -> None:
    rows = open_or_create(database, LAYOUT)
    for name in ("a", 'it\'s \\ "b"', "c"):
        rows = commit(database, rows, LAYOUT, change(fragments(database, name, 3), {}))
    rows.dataset.optimize.compact_files()
    new = Change(fragments(database, 'it\'s \\ "b"', 1), {}, "laion", ['it\'s \\ "b".tar'])
    base = latest(database)
    rows = commit(database, base, LAYOUT, new)
    found = rows.dataset.to_table(columns=["shard"])["shard"].to_pylist()
    assert sorted(found) == ["a.tar"] * 3 + ["c.tar"] * 3 + ['it\'s \\ "b".tar']
    with pytest.raises(CommitConflictError):
        commit(database, base, LAYOUT, new)
    other = Change([], {}, "another dataset", ["a.tar", "c.tar"])
    assert commit(database, rows, LAYOUT, other).dataset.count_rows() == 7
    all_ = Change([], {}, "laion", ["a.tar", "c.tar", 'it\'s \\ "b".tar'])
    empty = commit(database, latest(database), LAYOUT, all_)
    assert empty.dataset.count_rows() == 0
    assert commit(database, empty, LAYOUT, change(fragments(database, "d"), {})).dataset.count_rows() == 1


@pytest.mark.parametrize("landed", [False, True])
def test_create_through_a_store_that_hangs_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    swap, calls = Database.swap, []

    def hangs(self: Database, suffix: str, *more: Any) -> Any:
        calls.append(suffix)
        if len(calls) > 1:
            return swap(self, suffix, *more)
        if landed:
            swap(self, suffix, *more)
        with naming("commit to", self.path(suffix)):
            raise OSError(
                "LanceError(IO): single PUT failed after 30.001266143s: Generic S3 error: Error performing PUT"
            )

    monkeypatch.setattr(Database, "swap", hangs)
    assert open_or_create(database, LAYOUT).version == 1
    assert len(calls) == (1 if landed else 2)


def test_append_whose_reply_was_lost_lands_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.append("runs", NUMBERS)
    swap = Database.swap

    def lose_the_reply(self: Database, *args: object) -> None:
        monkeypatch.undo()
        swap(self, *args)
        raise TableError("connection reset")

    monkeypatch.setattr(Database, "swap", lose_the_reply)
    database.append("runs", NUMBERS)
    assert database.open("runs").count_rows() == 4


def test_check_refuses_a_table_that_others_made(database: Database, tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("laion", NUMBERS)
    with pytest.raises(ContractError, match=r"not made by bridgelake .* --table"):
        open_or_create(database, LAYOUT)


def test_errors_of_the_store_tell_no_secret_and_no_place_in_its_source() -> None:
    with pytest.raises(TableError, match="cannot open nosuch://") as error:
        open_or_create(Database("nosuch://user:SECRET@store/lake?token=SECRET", "laion"), LAYOUT)
    assert "SECRET" not in str(error.value)
    assert ".rs:" not in str(error.value)
    assert "\n" not in str(error.value)


def test_storage_options_hold_the_endpoint_and_never_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    assert storage_options("/a/folder") == storage_options("gs://b/lake") == {}
    told = {k: v for k, v in storage_options("s3://b/lake").items() if "timeout" not in k and "retries" not in k}
    assert told == {
        "aws_endpoint": "http://127.0.0.1:9",
        "allow_http": "true",
        "region": "eu-1",
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3")
    assert storage_options("s3://b/lake")["aws_endpoint"] == "https://s3"
    assert storage_options("s3://b/lake")["allow_http"] == "false"


def test_paths_of_a_database_are_those_of_lancedb(database: Database) -> None:
    assert Database("s3://b/lake/", "t").path("shards") == "s3://b/lake/t_shards.lance"
    database.append("runs", NUMBERS)
    assert database.connect().open_table("laion_runs").count_rows() == 2
