"""The tables in one LanceDB database: open, write fragments, commit. The only place that commits.

Our commits on `<table>` are compare-and-swap among themselves: an `Update` that names the lowest fragment as
touched conflicts with every other such `Update` since the version it read, and with whatever replaces or
deletes from that fragment (compaction, clean-up of rows). It passes over what brings no slice of ours: an index,
a configuration, somebody's `Append`. Where there is no fragment to name, an `Overwrite` without retries
conflicts with any commit at all. (`Append` never conflicts and may land twice; `write_dataset` into a place where
there is no table yet may *replace* what another has just created there.) Each commit carries what it brings as
transaction properties, so the transactions are the log from which the ledger is absorbed.
`tests/contract/test_lance.py` holds the pinned library to all this.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lance
import lancedb
import pyarrow as pa
from lance import commit as lance_commit
from lance.fragment import FragmentMetadata, write_fragments

from pipeline.config import Contract
from pipeline.contract import Layout, contract_of, require_columns, require_contract
from pipeline.errors import CommitConflictError, TableError
from pipeline.storage import redact

SLICES_PROPERTY = "bridgelake.slices"
STORAGE_VERSION = "2.1"
_PLACE_IN_SOURCE = re.compile(r", \S*\.rs:\d+:\d+.*")  # Lance appends it to every message


def storage_options(db: str) -> dict[str, str]:
    """What Lance needs besides the provider's own credential chain: it reads no AWS_ENDPOINT_URL over http."""
    if not db.startswith("s3"):
        return {}
    options = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options = {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    return options


@contextmanager
def _naming(what: str, uri: str) -> Iterator[None]:
    """Turn the storage's error into one that says what was tried, and where, and tells no secret."""
    try:
        yield
    except lance_commit.CommitConflictError as error:
        raise CommitConflictError(f"cannot {what} {redact(uri)}: somebody else committed first") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise TableError(f"cannot {what} {redact(uri)}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = redact(str(error)).strip() or type(error).__name__
    return _PLACE_IN_SOURCE.sub("", text.splitlines()[0])[:300]


@dataclass(frozen=True, slots=True)
class Database:
    """A LanceDB database and the name of the table in it."""

    uri: str
    table: str

    def absolute(self) -> "Database":
        """The same for a process with another working folder, as workers have."""
        return self if "://" in self.uri else replace(self, uri=str(Path(self.uri).absolute()))

    def path(self, suffix: str = "") -> str:
        """Where Lance keeps `<table>`, or `<table>_<suffix>`."""
        name = f"{self.table}_{suffix}" if suffix else self.table
        return f"{self.uri.rstrip('/')}/{name}.lance"

    def connect(self) -> lancedb.DBConnection:
        """With plain LanceDB."""
        with _naming("connect to", self.uri):
            return lancedb.connect(self.uri, storage_options=storage_options(self.uri))

    def open(self, suffix: str = "") -> lance.LanceDataset | None:
        """`<table>_<suffix>` at its latest version; None if it does not exist."""
        path = self.path(suffix)
        try:
            with _naming("open", path):
                return lance.dataset(path, storage_options=storage_options(self.uri))
        except TableError as error:
            if re.search(r": Dataset at path .* was not found", str(error)):
                return None
            raise

    def create(self, suffix: str, schema: pa.Schema) -> lance.LanceDataset:
        """`<table>_<suffix>`, made without rows if it is not there; of several at once, one makes it."""
        dataset = self.open(suffix)
        if dataset is None:
            try:
                return self.swap(suffix, None, schema, [])
            except TableError:
                dataset = self.open(suffix)  # another job was first
                if dataset is None:
                    raise
        return dataset

    def scan(self, suffix: str, dataset: lance.LanceDataset, columns: list[str]) -> pa.Table:
        """Some columns of all rows of `<table>_<suffix>`."""
        with _naming("read", self.path(suffix)):
            return dataset.to_table(columns=columns)

    def append(self, suffix: str, rows: pa.Table) -> None:
        """Append to `<table>_<suffix>`, which is made if need be; not for what must land exactly once."""
        self.create(suffix, rows.schema)
        with _naming("write", self.path(suffix)):
            lance.write_dataset(rows, self.path(suffix), mode="append", storage_options=storage_options(self.uri))

    def write(self, suffix: str, rows: pa.Table) -> list[str]:
        """Write rows as fragments that no version holds yet.

        Returns:
            The fragments' metadata as JSON, for `swap`.
        """
        with _naming("write to", self.path(suffix)):
            fragments = write_fragments(
                rows,
                self.path(suffix),
                storage_options=storage_options(self.uri),
                data_storage_version=STORAGE_VERSION,
                mode="append",
            )
        return [json.dumps(f.to_json()) for f in fragments]

    def swap(
        self,
        suffix: str,
        base: lance.LanceDataset | None,
        schema: pa.Schema,
        fragments: Sequence[str],
        properties: Mapping[str, str] | None = None,
    ) -> lance.LanceDataset:
        """Commit fragments on top of exactly `base`; None where there is no table yet.

        Raises:
            CommitConflictError: somebody else committed since `base`; look at what, and try again.
            TableError: the store refused.
        """
        new = [FragmentMetadata.from_json(f) for f in fragments]
        touched = _lowest_fragment(base)
        operation: lance.LanceOperation.BaseOperation
        if touched is None:
            operation = lance.LanceOperation.Overwrite(schema, new)
        else:
            operation = lance.LanceOperation.Update(updated_fragments=[touched], new_fragments=new)
        version = 0 if base is None else base.version
        transaction = lance.Transaction(version, operation, transaction_properties=dict(properties or {}))
        with _naming("commit to", self.path(suffix)):
            return lance.LanceDataset.commit(
                self.path(suffix),
                transaction,
                max_retries=0,
                storage_options=storage_options(self.uri),
                enable_v2_manifest_paths=True,
            )


def _lowest_fragment(base: lance.LanceDataset | None) -> FragmentMetadata | None:
    fragments = base.get_fragments() if base is not None else []
    return min(fragments, key=lambda f: f.fragment_id).metadata if fragments else None


class Rows:
    """`<table>` at one version."""

    def __init__(self, database: Database, dataset: lance.LanceDataset) -> None:
        self._database = database
        self.dataset = dataset

    @classmethod
    def open(cls, database: Database) -> "Rows | None":
        """The latest version; None if there is no such table yet."""
        dataset = database.open()
        return None if dataset is None else cls(database, dataset)

    @property
    def version(self) -> int:
        """The table's version."""
        version: int = self.dataset.version
        return version

    @property
    def contract(self) -> Contract:
        """The embedding contract that the table was made with."""
        return contract_of(self._database.path(), self.dataset.schema)

    def check(self, layout: Layout) -> None:
        """Refuse another contract, other vectors or other columns than the table's own.

        Raises:
            ContractError: showing both.
        """
        where = self._database.path()
        require_contract(where, self.contract, layout.contract)
        require_columns(where, self.dataset.schema, layout.schema)

    def commits_since(self, version: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Versions after `version` that brought slices, each with the records it carried.

        Raises:
            TableError: a version was cleaned up, so nobody knows what it brought.
        """
        for later in range(version + 1, self.version + 1):
            carried = self._properties(later).get(SLICES_PROPERTY)
            if carried:
                yield later, json.loads(carried)

    def _properties(self, version: int) -> dict[str, str]:
        with _naming(f"read the transaction of version {version} of", self._database.path()):
            try:
                transaction = self.dataset.read_transaction(version)
            except TypeError:
                return {}  # pylance 13 cannot show a compaction of an indexed table; it is none of ours
        return dict(transaction.transaction_properties or {}) if transaction else {}


def open_or_create(database: Database, layout: Layout) -> Rows:
    """The table, made without rows if it is not there; refused if it is of another contract."""
    rows = Rows(database, database.create("", layout.with_metadata))
    rows.check(layout)
    return rows


def commit(
    database: Database, base: Rows, layout: Layout, fragments: Sequence[str], properties: Mapping[str, str]
) -> Rows:
    """Commit fragments of `<table>` on top of exactly `base`; raises as `Database.swap`."""
    return Rows(database, database.swap("", base.dataset, layout.with_metadata, fragments, properties))
