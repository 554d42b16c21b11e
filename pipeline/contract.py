"""What `<table>` is made of and made with: its columns, and the embedding contract in its schema's metadata.

The metadata also names the function with which plain LanceDB embeds queries, and where the table was made, for the
plug-ins of `bridgelake`. Neither is part of the contract: tables without them, or that were moved, are used as before.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.config import Contract
from pipeline.errors import ContractError
from pipeline.schema import tagging_of
from pipeline.stores.storage import redact

CONTRACT_KEY = b"bridgelake.contract"
STORED_KEY = b"bridgelake.stored"
PLACE_KEY = b"bridgelake.place"
FUNCTIONS_KEY = b"embedding_functions"  # LanceDB's own
FUNCTION = "bridgetower"  # the registered embedding function, and LanceDB's variable that tells where its model is now


@dataclass(frozen=True, slots=True)
class Layout:
    """The schema of `<table>` with the embedding contract in its metadata."""

    schema: pa.Schema
    contract: Contract

    @property
    def with_metadata(self) -> pa.Schema:
        """The schema as it is stored."""
        vectors = [f.name for f in self.schema if pa.types.is_fixed_size_list(f.type)]
        storage = {str(self.schema.field(v).type.value_type) for v in vectors}
        stored = {"vectors": vectors, "storage": sorted(storage)}
        return self.schema.with_metadata(
            {
                CONTRACT_KEY: json.dumps(asdict(self.contract), sort_keys=True),
                STORED_KEY: json.dumps(stored, sort_keys=True),
                FUNCTIONS_KEY: json.dumps([self._function(vector) for vector in vectors]),
            }
        )

    def made_at(self, db: str, table: str) -> pa.Schema:
        """The schema as it is stored by a run: it also tells where, since a LanceDB query does not."""
        schema, place = self.with_metadata, {"db": redact(db), "table": table}
        return schema.with_metadata(schema.metadata | {PLACE_KEY: json.dumps(place, sort_keys=True)})

    def _function(self, vector: str) -> dict[str, Any]:
        """How plain LanceDB embeds a query for a vector column, once `import bridgelake` has registered it."""
        made_with = asdict(self.contract)
        made_with["checkpoint"] = f"$var:{FUNCTION}:{self.contract.checkpoint}"  # with a default
        return {"name": FUNCTION, "model": made_with, "source_column": "caption", "vector_column": vector}


def contract_of(where: str, schema: pa.Schema) -> Contract:
    """The embedding contract that the table at `where` was made with."""
    metadata = schema.metadata or {}
    if CONTRACT_KEY not in metadata:
        raise ContractError(
            f"{where} was not made by bridgelake (its schema has no embedding contract): "
            "name another table with --table"
        )
    return Contract(**json.loads(metadata[CONTRACT_KEY]))


def require_contract(where: str, table: Contract, other: Contract) -> None:
    """Refuse another embedding contract, showing both line by line."""
    its, mine = asdict(table), asdict(other)
    # The same weights under another path or name are the same embeddings.
    if all(its[k] == mine[k] for k in its if k not in ("checkpoint", "revision")):
        return
    lines = "".join(f"\n  {k}: the table has {its[k]!r}, this model {mine[k]!r}" for k in its if its[k] != mine[k])
    raise ContractError(
        f"{where} was made with another model or preprocessing:{lines}\n"
        "  use the model it was made with, or another --table"
    )


def require_tags(where: str, table: pa.Schema, other: pa.Schema) -> None:
    """Refuse tags beside others that were asked for otherwise; the rows of a run without tags have none."""
    its, mine = tagging_of(table), tagging_of(other)
    if mine is None or its == mine:
        return
    has = f"has {its.count} tags for {its.prompt!r}" if its else "has a column tags that --keep brought"
    raise ContractError(
        f"{where} {has}, this run would add {mine.count} for {mine.prompt!r}: use the same --tags and --tag-prompt as "
        "before, or none, or another --table"
    )


def require_columns(where: str, table: pa.Schema, other: pa.Schema) -> None:
    """Refuse columns that the table lacks or has in another type; what it has besides stays null."""
    wrong = [f"{f.name} {f.type}" for f in other if f.name not in table.names or table.field(f.name).type != f.type]
    wrong += [f"no {f.name}" for f in table if pa.types.is_fixed_size_list(f.type) and f.name not in other.names]
    if wrong:
        raise ContractError(
            f"{where} has other columns: this run would write {', '.join(wrong)}; the table has "
            f"{', '.join(f'{f.name} {f.type}' for f in table)}: use the same --vectors, --storage and types of --keep "
            "as before, or another --table"
        )
