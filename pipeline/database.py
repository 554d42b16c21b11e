"""One LanceDB database: open its tables, write fragments, commit by compare-and-swap.

Our commits are compare-and-swap among themselves: an `Update` that names the lowest fragment as touched conflicts
with every other such `Update` since the version it read, and with whatever replaces or deletes from that fragment
(compaction, a replaced shard, new columns). It passes over what brings nothing of ours: an index, a configuration,
somebody's `Append`. Where there is no fragment to name, an `Overwrite` without retries conflicts with any commit at
all. (`Append` never conflicts and may land twice; `write_dataset` into a place where there is no table yet may
*replace* what another has just created there.) `tests/contract` holds the pinned library to all this.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import pyarrow as pa
from lance import commit as lance_commit
from lance.fragment import FragmentMetadata, write_fragments

from pipeline.errors import CommitConflictError, TableError, VersionGoneError
from pipeline.removal import Removal, touch
from pipeline.stores.retry import Tries, patiently
from pipeline.stores.storage import redact
from pipeline.versions import at_version

if TYPE_CHECKING:
    import lancedb

STORAGE_VERSION = "2.1"
_TOKEN = "bridgelake.append"  # noqa: S105  # a property's name: tells whether an append has landed
# Of one request, and of its tries: the tries after that are ours, which look at what has landed.
_LIMITS = {"timeout": "30s", "connect_timeout": "5s", "client_max_retries": "10", "client_retry_timeout": "20"}
_NOT_FOUND = re.compile(r": Dataset at path .* was not found")  # of a table, or of a version's manifest
_PLACE_IN_SOURCE = re.compile(r", \S*\.rs:\d+:\d+.*")  # Lance appends it to every message


def storage_options(db: str) -> dict[str, str]:
    """What Lance needs besides the provider's own credential chain: limits of time, and the endpoint over http."""
    if not db.startswith("s3"):
        return {}
    options = dict(_LIMITS)
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options |= {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    return options


@contextmanager
def naming(what: str, uri: str) -> Iterator[None]:
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

    @property
    def shown(self) -> str:
        """Where the table is, for people: without what is secret in a URL."""
        return redact(self.path())

    def connect(self) -> "lancedb.DBConnection":
        """With plain LanceDB."""
        import lancedb  # a second that no worker has to spend, and few jobs

        with naming("connect to", self.uri):
            return lancedb.connect(self.uri, storage_options=storage_options(self.uri))

    def open(self, suffix: str = "", version: int | str | None = None) -> lance.LanceDataset | None:
        """`<table>_<suffix>` at a version, which is a number or a tag; None if there is no such table.

        Raises:
            TableError: no such version or tag; it tells which there are.
        """
        path = self.path(suffix)
        try:
            with naming("open", path):
                dataset = lance.dataset(path, storage_options=storage_options(self.uri))
        except TableError as error:
            if _NOT_FOUND.search(str(error)):
                return None
            raise
        if version is None:
            return dataset
        with naming(f"open version {version} of", path):
            return at_version(dataset, version)

    def require(self, version: int | str | None = None) -> lance.LanceDataset:
        """`<table>` at a version, as `open`, where it has to be there.

        Raises:
            TableError: there is no table, or no such version or tag.
        """
        dataset = self.open(version=version)
        if dataset is None:
            raise self.missing()
        return dataset

    def missing(self) -> TableError:
        """For who needs the table, and finds none."""
        return TableError(f"there is no table {self.table} in {redact(self.uri)}: embed shards into it first")

    def create(self, suffix: str, schema: pa.Schema) -> lance.LanceDataset:
        """`<table>_<suffix>`, made without rows if it is not there; of several at once, one makes it."""
        return patiently(TableError)(self._create, suffix, schema)

    def _create(self, suffix: str, schema: pa.Schema) -> lance.LanceDataset:
        dataset = self.open(suffix)
        if dataset is None:
            try:
                return self.swap(suffix, None, schema, [])
            except TableError:
                dataset = self.open(suffix)  # another job was first, or our own landed and its reply was lost
                if dataset is None:
                    raise
        return dataset

    def scan(self, suffix: str, dataset: lance.LanceDataset, columns: list[str]) -> pa.Table:
        """Some columns of all rows of `<table>_<suffix>`."""
        with naming("read", self.path(suffix)):
            return dataset.to_table(columns=columns)

    def append(self, suffix: str, rows: pa.Table) -> None:
        """Append to `<table>_<suffix>`, which is made if need be; once, whatever becomes of the replies."""
        base = self.create(suffix, rows.schema)
        fragments, token, before = self.write(suffix, rows), uuid.uuid4().hex, base.version
        for attempt in patiently(TableError):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    base = self.create(suffix, rows.schema)
                    later = range(before + 1, base.version + 1)
                    if any(self.properties(suffix, base, v).get(_TOKEN) == token for v in later):
                        return
                self.swap(suffix, base, rows.schema, fragments, {_TOKEN: token})

    def write(self, suffix: str, rows: pa.Table, tries: Tries | None = None) -> list[str]:
        """Write rows as fragments that no version holds yet.

        Args:
            suffix: of the table.
            rows: all of them.
            tries: counts how often it was begun anew; what Lance repeats of single requests is not told.

        Returns:
            The fragments' metadata as JSON, for `swap`.
        """
        for attempt in (tries or Tries()).patiently(TableError):
            with attempt, naming("write to", self.path(suffix)):
                fragments = write_fragments(
                    rows,
                    self.path(suffix),
                    storage_options=storage_options(self.uri),
                    data_storage_version=STORAGE_VERSION,
                    mode="append",
                )
        return [json.dumps(f.to_json()) for f in fragments]

    def swap(  # what a commit is
        self,
        suffix: str,
        base: lance.LanceDataset | None,
        schema: pa.Schema,
        fragments: Sequence[str],
        properties: Mapping[str, str] | None = None,
        without: Removal | None = None,
    ) -> lance.LanceDataset:
        """Commit fragments on top of exactly `base`; None where there is no table yet.

        Args:
            suffix: of the table.
            base: the version that the commit was made for.
            schema: of the table, where there is none yet.
            fragments: the new ones, as `write` gave them.
            properties: what the transaction carries.
            without: rows that are removed in the same commit.

        Raises:
            CommitConflictError: somebody else committed since `base`; look at what, and try again.
            TableError: the store refused, or its reply was lost: look whether it landed.
        """
        new = [FragmentMetadata.from_json(f) for f in fragments]
        with naming("commit to", self.path(suffix)):
            touched = touch(base, without)
            operation: lance.LanceOperation.BaseOperation
            if touched is None:
                operation = lance.LanceOperation.Overwrite(schema if base is None else base.schema, new)
            else:
                operation = lance.LanceOperation.Update(
                    removed_fragment_ids=touched.removed, updated_fragments=touched.updated, new_fragments=new
                )
            version = 0 if base is None else base.version
            transaction = lance.Transaction(version, operation, transaction_properties=dict(properties or {}))
            return lance.LanceDataset.commit(
                self.path(suffix),
                transaction,
                max_retries=0,
                storage_options=storage_options(self.uri),
                enable_v2_manifest_paths=True,
            )

    def properties(self, suffix: str, dataset: lance.LanceDataset, version: int) -> dict[str, str]:
        """What the commit of one version carried.

        Raises:
            VersionGoneError: the version was cleaned up.
            TableError: the store did not say.
        """
        try:
            with naming(f"read the transaction of version {version} of", self.path(suffix)):
                transaction = dataset.read_transaction(version)
        except TypeError:
            return {}  # pylance 13 cannot show a compaction of an indexed table; it is none of ours
        except TableError as error:
            if _NOT_FOUND.search(str(error)):
                raise VersionGoneError(str(error)) from error
            raise
        return dict(transaction.transaction_properties or {}) if transaction else {}
