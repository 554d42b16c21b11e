"""Rows out of the table: as parquet, CSV or JSON lines, as a new WebDataset, or in clip-retrieval's layout."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.contract import contract_of
from pipeline.database import Database
from pipeline.errors import ConfigError, InputError
from pipeline.exports.asked import FLAT, Export, Exported
from pipeline.exports.choice import Choice
from pipeline.exports.clip import PART_ROWS, write_clip_retrieval
from pipeline.exports.output import whole_file, whole_folder
from pipeline.exports.tars import SHARD_SIZE, Limits, Packed, write_tars
from pipeline.plain import plain
from pipeline.query import QueryModel
from pipeline.retrieval.where import check_where
from pipeline.roots import source_roots
from pipeline.stores.storage import redact

if TYPE_CHECKING:
    from pipeline.sql.answers import Batches

RECORD = "_export.json"  # written last: a folder without it is not whole


def export(database: Database, asked: Export, model: Callable[[], QueryModel]) -> Exported:
    """Write the chosen rows; what is half-written never bears the output's name.

    Args:
        database: with the table.
        asked: what to write, and where.
        model: called if a query holds a search.

    Raises:
        ConfigError: an option that is not valid, a bad condition or query, an output that is there already.
        LimitError: the query takes too long, or too much memory.
        TableError, ContractError: no table, one without the vectors that the layout needs, or of another model.
        InputError: no row, or ids that the table does not have.
        FetchError: not one picture can be fetched.
        OutputError: the output cannot be written.
    """
    dataset = database.require(asked.version)
    choice = Choice(database, dataset, asked.where.strip())
    if choice.where:
        check_where(dataset, choice.where)
    if asked.kind not in FLAT:
        return _folder(choice, asked, model)
    if asked.sql:
        return _answer(choice, asked, model)
    with whole_file(asked.output) as file:
        columns = _columns(choice, asked)
        schema = pa.schema([dataset.schema.field(name) for name in columns])
        rows = FLAT[asked.kind](file, schema, choice.batches(columns))
        if not rows:
            raise _nothing(choice, asked)
    return _exported(choice, asked, rows)


def _columns(choice: Choice, asked: Export) -> list[str]:
    known = choice.dataset.schema.names
    if unknown := [name for name in asked.select if name not in known]:
        raise ConfigError(f"--select: there is no column {plain(unknown[0], 80)}; the columns are {', '.join(known)}")
    vectors = [name for name in known if asked.vectors and name not in choice.columns]
    if asked.select:
        return list(dict.fromkeys([*asked.select, *vectors]))
    return [name for name in known if name in choice.columns or name in vectors]


def _answer(choice: Choice, asked: Export, model: Callable[[], QueryModel]) -> Exported:
    """What the query gives, as it comes, in a file."""
    with whole_file(asked.output) as file, _asking(choice, asked, model) as batches:
        rows = FLAT[asked.kind](file, batches.schema, batches)
        if not rows:
            raise _nothing(choice, asked)
        return _exported(choice, asked, rows, notes=batches.notes)


def _folder(choice: Choice, asked: Export, model: Callable[[], QueryModel]) -> Exported:
    notes: tuple[str, ...] = ()
    packed = None
    with whole_folder(asked.output) as folder:  # first, so that an output that is there is not told of after the work
        if asked.sql:
            ids, notes = _ids(choice, asked, model)
            choice = replace(choice, ids=ids)
        rows = _counted(choice, asked)
        roots = source_roots(choice.database)
        if asked.kind == "webdataset":
            packed = write_tars(folder, choice, Limits(asked.shard_size or SHARD_SIZE, asked.shard_bytes), roots)
            rows = packed.pairs
        else:
            write_clip_retrieval(folder, choice, rows, asked.shard_size or PART_ROWS, roots)
        done = _exported(choice, asked, rows, packed, notes)
        with folder.file(RECORD) as file:
            file.write(json.dumps(done.to_dict(), indent=2).encode())
    return done


def _counted(choice: Choice, asked: Export) -> int:
    """How many rows there are; at least one, and all that were named."""
    rows = choice.count()
    if choice.ids is not None and rows < len(choice.ids):
        raise InputError(
            f"--sql gave {len(choice.ids):,} ids, {len(choice.ids) - rows:,} of them are not in {choice.name}: its id "
            "must be that of samples"
        )
    if not rows:
        raise _nothing(choice, asked)
    return rows


def _ids(choice: Choice, asked: Export, model: Callable[[], QueryModel]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The rows that the query names."""
    ids: set[str] = set()
    with _asking(choice, asked, model) as batches:
        if "id" not in batches.schema.names:
            raise ConfigError(
                f"--sql gives {', '.join(batches.schema.names)}: for --format {asked.kind} it must give the id of "
                "each row of samples that is wanted"
            )
        for batch in batches:
            ids.update(map(str, batch["id"].to_pylist()))
        return frozenset(ids), batches.notes


def _asking(choice: Choice, asked: Export, model: Callable[[], QueryModel]) -> AbstractContextManager["Batches"]:
    from pipeline.sql.engine import Statement, reading  # DataFusion, which a plain export does without

    return reading(choice.database, Statement(asked.sql, choice.dataset.version, asked.limits), model)


def _nothing(choice: Choice, asked: Export) -> InputError:
    chosen = f"no row meets --where {plain(choice.where, 200)!r}" if choice.where else "it holds no rows yet"
    return InputError(f"nothing to export from {choice.name}: {'--sql gave no row' if asked.sql else chosen}")


def _exported(
    choice: Choice, asked: Export, rows: int, packed: Packed | None = None, notes: tuple[str, ...] = ()
) -> Exported:
    done = Exported(
        output=redact(asked.output),
        format=asked.kind,
        table=choice.name,
        version=choice.dataset.version,
        where=asked.where,
        sql=asked.sql,
        contract=asdict(contract_of(choice.name, choice.dataset.schema)),
        rows=rows,
        notes=notes,
    )
    if packed is None:
        return done
    done = replace(done, pictures=packed.pictures, shards=packed.shards)
    return replace(done, missing=packed.missing, first_missing=packed.first_missing)
