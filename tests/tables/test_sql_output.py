"""Answers as a table, CSV, JSON lines and parquet, read back with other tools."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, OutputError
from pipeline.sql.engine import Statement, reading
from pipeline.sql.limits import Limits
from pipeline.sql.output import check_format, show, write_rows
from tests.lakes import HOSTILE, FakeLake
from tests.statements import frame

STATEMENT = "SELECT id, width, similarity, safe, image_embedding, caption FROM samples ORDER BY id"


def written(lake: FakeLake, text: str, format_: str, path: Path) -> int:
    with reading(lake.database, Statement(text), lambda: lake.model) as batches:
        return write_rows(batches, format_, str(path))


def test_output_as_parquet_reads_back_as_it_was(wide: FakeLake, tmp_path: Path) -> None:
    assert written(wide, STATEMENT, "parquet", tmp_path / "a.parquet") == 1000
    found = pd.read_parquet(tmp_path / "a.parquet")
    pd.testing.assert_series_equal(found["similarity"], frame(wide)["similarity"])
    stored = np.stack([np.asarray(row["image_embedding"], np.float16) for row in wide.rows])
    np.testing.assert_array_equal(np.stack(found["image_embedding"]), stored)


def test_output_as_json_lines_and_csv_reads_back_as_it_was(wide: FakeLake, tmp_path: Path) -> None:
    assert written(wide, STATEMENT, "jsonl", tmp_path / "a.jsonl") == 1000
    assert written(wide, STATEMENT, "csv", tmp_path / "a.csv") == 1000
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    for row, line, cell in zip(wide.rows, lines, cells, strict=True):
        assert (line["id"], line["width"], line["safe"]) == (row["id"], row["width"], row["safe"])
        assert line["similarity"] == row["similarity"]
        assert cell["similarity"] == ("" if row["similarity"] is None else str(row["similarity"]))
        assert json.loads(cell["image_embedding"]) == line["image_embedding"]
        np.testing.assert_allclose(line["image_embedding"], row["image_embedding"], atol=1e-3)


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet", "table"])
def test_output_of_every_kind_of_value_can_be_written(wide: FakeLake, tmp_path: Path, format_: str) -> None:
    values = "now() AS a, DATE '2024-02-03' AS b, 1.5::DECIMAL(5, 2) AS c, sha256('x') AS d, [1, NULL] AS e"
    values += ", named_struct('x', 'y') AS f, NULL AS g, 'NaN'::DOUBLE AS h, now() - now() AS i"
    assert written(wide, f"SELECT {values}", format_, tmp_path / "a") == 1
    assert (tmp_path / "a").stat().st_size > 0


def test_output_takes_its_name_only_when_it_is_whole(wide: FakeLake, tmp_path: Path) -> None:
    slow = Statement("SELECT a.id FROM samples a, samples b, samples c", limits=Limits(seconds=0.5))
    with pytest.raises(Exception, match="took longer"), reading(wide.database, slow, lambda: wide.model) as batches:
        write_rows(batches, "csv", str(tmp_path / "a.csv"))
    assert list(tmp_path.iterdir()) == []
    written(wide, "SELECT 1 AS x", "csv", tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r"a.csv is there already"):
        written(wide, "SELECT 2 AS x", "csv", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "x\n1\n"
    with pytest.raises(OutputError, match="cannot be written"):
        written(wide, "SELECT 1", "csv", tmp_path / "a.csv" / "b.csv")


def test_output_without_rows_has_its_columns(wide: FakeLake, tmp_path: Path) -> None:
    for format_, text in (("csv", "id,caption\n"), ("jsonl", "")):
        assert written(wide, "SELECT id, caption FROM samples WHERE false", format_, tmp_path / format_) == 0
        assert (tmp_path / format_).read_text() == text
    written(wide, "SELECT id, caption FROM samples WHERE false", "parquet", tmp_path / "p")
    assert list(pd.read_parquet(tmp_path / "p").columns) == ["id", "caption"]


def test_output_for_people_is_safe_and_ends() -> None:
    table, text = pa.table({"[red]\x1b": HOSTILE, "n": [1.5, None, 2e9, 0.0, -1.0, 1e-9, 3.0, 4.0, 5.0]}), io.StringIO()
    assert show(table.to_batches(), table.schema, text) == len(HOSTILE)
    shown = text.getvalue()
    assert all(line.isprintable() or "👩" in line for line in shown.splitlines())
    assert "[red]" in shown
    assert "\\x1b" in shown
    many, text = pa.table({"n": range(5000)}), io.StringIO()
    assert show(many.to_batches(), many.schema, text) == 1000
    assert text.getvalue().rstrip().endswith("more than 1000 rows: --format csv, jsonl or parquet gives all")


def test_output_refuses_what_cannot_be_written_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="allowed is table, csv, jsonl, parquet"):
        check_format("xlsx", None)
    with pytest.raises(ConfigError, match="name a file with --output"):
        check_format("parquet", None)
    check_format("parquet", "a")


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_output_that_nobody_reads_any_more_or_that_is_full_is_named(
    wide: FakeLake, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    for place, why in ((writes, "Broken pipe"), ("/dev/full", "No space left on device")):
        statement = Statement("SELECT id, caption FROM samples")
        told = f"standard output cannot be written: {why}"
        with open(place, "w", encoding="utf-8") as file, monkeypatch.context() as here:  # noqa: PTH123 - a number too
            here.setattr("sys.stdout", file)
            with (
                pytest.raises(OutputError, match=told),
                reading(wide.database, statement, lambda: wide.model) as batches,
            ):
                write_rows(batches, format_, None)


def test_output_for_people_shows_times_that_python_does_not_know(
    wide: FakeLake, capsys: pytest.CaptureFixture[str]
) -> None:
    with reading(wide.database, Statement("SELECT from_unixtime(99999999999) AS t"), lambda: wide.model) as batches:
        assert write_rows(batches, "table", None) == 1
    assert "5138-11-16 09:46:39" in capsys.readouterr().out
    with reading(wide.database, Statement("SELECT from_unixtime(999999999999) AS t"), lambda: wide.model) as batches:
        assert write_rows(batches, "table", None) == 1
