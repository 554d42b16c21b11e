"""What Lance makes of an S3 server on a bad day, and with which errors: `pipeline.stores.retry` goes by their text."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import boto3
import lance
import pyarrow as pa
import pytest
from lance.fragment import FragmentMetadata, write_fragments

from pipeline.stores.retry import may_pass
from tests.faults.proxy import Faults, Proxy

SCHEMA = pa.schema([pa.field("id", pa.int64())])
PATH = "s3://lake/t.lance"


class Table:
    """A table of one row on S3, behind a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.options = {"aws_endpoint": proxy.url, "allow_http": "true", "region": "us-east-1"}
        self.options |= {"access_key_id": "k", "secret_access_key": "s"}

    def open(self) -> lance.LanceDataset:
        return lance.dataset(PATH, storage_options=self.options)

    def write(self, *ids: int) -> list[FragmentMetadata]:
        rows = pa.table({"id": pa.array(ids, pa.int64())}, schema=SCHEMA)
        return write_fragments(rows, PATH, mode="append", storage_options=self.options)

    def commit(self, base: lance.LanceDataset | None, new: list[FragmentMetadata]) -> lance.LanceDataset:
        operation: lance.LanceOperation.BaseOperation = lance.LanceOperation.Overwrite(SCHEMA, new)
        if base is not None:
            touched = [f.metadata for f in base.get_fragments()[:1]]
            operation = lance.LanceOperation.Update(updated_fragments=touched, new_fragments=new)
        transaction = lance.Transaction(base.version if base else 0, operation)
        return lance.LanceDataset.commit(
            PATH, transaction, max_retries=0, storage_options=self.options, enable_v2_manifest_paths=True
        )

    @property
    def ids(self) -> list[int]:
        return sorted(self.open().to_table()["id"].to_pylist())


@pytest.fixture
def table(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    with Proxy(s3_server, seed=1) as proxy:
        access = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        bucket = boto3.resource("s3", endpoint_url=s3_server, **access).create_bucket(Bucket="lake")
        table = Table(proxy)
        table.commit(None, table.write(0))
        yield table
        bucket.objects.delete()
        bucket.delete()


@pytest.mark.parametrize("what", ["_versions/", "_transactions/", "data/"])
def test_write_whose_reply_is_lost_is_noticed_and_lands_once(table: Table, what: str) -> None:
    base = table.open()
    table.proxy.faults = Faults(lost=1, only=f"PUT .*{what}", times=1)
    assert table.commit(base, table.write(1)).version == base.version + 1
    assert table.proxy.did["lost"] == 1
    assert table.ids == [0, 1]


def test_commits_land_once_or_raise_through_errors_cut_bodies_and_lost_replies(table: Table) -> None:
    expected, errors = [0], []
    table.proxy.faults = Faults(error=0.3, truncate=0.1, lost=0.05)
    for i in range(1, 5):
        try:
            base = table.open()
            table.commit(base, table.write(i))
            expected.append(i)
        except (OSError, ValueError) as error:
            errors.append(error)
    assert all(map(may_pass, errors))
    assert table.proxy.did["error"] > 0
    table.proxy.faults = Faults()
    assert table.ids == expected


ERROR, CUT, DOWN, DENIED = Faults(error=1), Faults(truncate=1), None, Faults(deny=1)
CALLS: dict[str, tuple[Faults | None, Callable[[Table, lance.LanceDataset], object]]] = {
    "open, errors": (ERROR, lambda table, base: table.open()),
    "open, access denied": (DENIED, lambda table, base: table.open()),
    "write, down": (DOWN, lambda table, base: table.write(1)),
    "write, access denied": (DENIED, lambda table, base: table.write(1)),
    "commit, cut bodies": (CUT, lambda table, base: table.commit(base, [])),
    "read, errors": (ERROR, lambda table, base: base.to_table()),
    "read, access denied": (DENIED, lambda table, base: base.to_table()),
}


@pytest.mark.parametrize("name", CALLS)
def test_error_tells_whether_it_may_pass(table: Table, name: str) -> None:
    faults, call = CALLS[name]
    table.options["client_max_retries"] = "0"
    base = table.open()
    if faults is DOWN:
        table.proxy.go_down(60)
    else:
        table.proxy.faults = faults
    with pytest.raises((OSError, ValueError), match=r"LanceError\(IO\)") as caught:
        call(table, base)
    assert may_pass(caught.value) is (faults is not DENIED)


def test_call_that_hangs_is_ended_by_the_options(table: Table) -> None:
    table.options |= {"timeout": "1s", "client_max_retries": "10", "client_retry_timeout": "1"}
    table.proxy.faults = Faults(hang=1, times=1, hang_seconds=60)
    began = time.monotonic()
    assert table.ids == [0]
    assert time.monotonic() - began < 15
    assert table.proxy.did["hang"] == 1


def test_transaction_of_a_version_that_was_cleaned_up_is_not_found(table: Table) -> None:
    """`Database.properties` goes by these words, on disk and here."""
    table.commit(table.open(), table.write(1))
    table.open().cleanup_old_versions(timedelta(0))
    with pytest.raises(OSError, match=r"Dataset at path .* was not found"):
        table.open().read_transaction(1)
