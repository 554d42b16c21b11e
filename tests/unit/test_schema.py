"""Column names and types, the same in every room."""

from enum import StrEnum

import pyarrow as pa
import pytest

from pipeline.config import KEEP_TYPES, VECTORS, Keep
from pipeline.errors import (
    BridgelakeError,
    CommitConflictError,
    ConfigError,
    ContractError,
    CoverageError,
    RejectReason,
    ShardError,
    Stage,
    TableError,
)
from pipeline.schema import REJECTS, SHARDS, Kind, embedded_schema, prepared_schema, rows_schema
from tests.blocks import record

DESIGNED = {
    "id",
    "shard",
    "key",
    "caption_index",
    "caption",
    "url",
    "width",
    "height",
    "sha256",
    "image_offset",
    "image_length",
    "row_group",
    "row_in_group",
    "image_embedding",
    "text_embedding",
    "cross_embedding",
    "itc_score",
    "itm_score",
    "run_id",
}


def test_rows_schema_holds_the_columns_of_the_design() -> None:
    schema = rows_schema([Keep("similarity", "float64")], VECTORS, 512, "float16")
    assert DESIGNED | {"dataset", "metadata", "similarity"} == set(schema.names)
    assert schema.field("image_embedding").type == pa.list_(pa.float16(), 512)
    assert schema.field("similarity").type == pa.float64()


def test_rows_schema_is_the_same_in_whatever_order_it_was_asked_for() -> None:
    one = rows_schema([Keep("b", "bool"), Keep("a")], ("text", "image"), 4, "float32")
    other = rows_schema([Keep("a"), Keep("b", "bool")], ("image", "text"), 4, "float32")
    assert one == other
    assert "cross_embedding" not in one.names
    assert one.field("text_embedding").type.value_type == pa.float32()


@pytest.mark.parametrize("kind", KEEP_TYPES)
def test_keep_types_have_an_arrow_type_each(kind: str) -> None:
    assert prepared_schema([Keep("kept", kind)]).field("kept").type is not None


@pytest.mark.parametrize("table", [REJECTS, rows_schema((), VECTORS, 4, "float16")])
def test_every_stored_column_is_in_the_embedded_batches_or_added_by_the_writer(table: pa.Schema) -> None:
    travelling = embedded_schema((), VECTORS, 4, "float16")
    for field in table:
        if field.name not in ("id", "dataset", "run_id", "at"):
            assert travelling.field(field.name).type == field.type


def test_ledger_columns_are_a_records_fields_and_what_became_of_it() -> None:
    assert set(record("a").row(3)) == set(SHARDS.names)


@pytest.mark.parametrize("names", [Kind, RejectReason, Stage])
def test_names_in_tables_are_plain_words(names: type[StrEnum]) -> None:
    assert all(n.value == n.name.lower() for n in names)


def test_errors_form_the_tree_of_the_docstring() -> None:
    assert not issubclass(ContractError, TableError)  # which is tried again
    assert issubclass(CommitConflictError, TableError)
    assert {e.exit_code for e in (TableError, ShardError, CoverageError)} == {1}
    assert all(issubclass(e, BridgelakeError) for e in (ConfigError, ShardError, TableError))
