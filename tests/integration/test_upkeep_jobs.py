"""`verify.py` and `compact.py` as a person types them, on a table of a small random checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

import model
from bridgelake.wiring import as_model
from tests.ingest import Lake
from tests.typed import Done, typed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("made"), model=as_model(model.resolve(str(checkpoint))))
    for i in range(3):
        lake.write(f"{i}.tar", 10 * i, 4, 1)
    lake.run(*(f"{i}.tar" for i in range(3)))
    return lake


@pytest.fixture
def lake(made: Lake, tmp_path: Path) -> Lake:
    """A copy of the table, of the same shards."""
    shutil.copytree(made.folder / "lake", tmp_path / "lake")
    return Lake(tmp_path, model=made.model)


def job(name: str, lake: Lake, *arguments: str) -> Done:
    return typed(name, "--db", lake.database.uri, *arguments)


def test_verify_of_a_whole_table_ends_with_0(lake: Lake, checkpoint: Path) -> None:
    done = job("verify", lake, "--model", str(checkpoint), "--sample", "12")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "checked 4 commits, 4 ledger rows, 3 slices, 12 rows, 36 vectors, 3 shards, 3 rejects, 1 runs, "
        "12 rows embedded again: all holds\n"
    )


def test_verify_says_what_is_wrong_and_repair_mends_it(lake: Lake, checkpoint: Path) -> None:
    shutil.rmtree(lake.database.path("shards"))
    lake.rows().delete("shard = '1.tar' AND key = '00011'")
    done = job("verify", lake, "--model", str(checkpoint))
    assert done.returncode == 1
    assert "wrong: rows: laion 1.tar: the table has 3, the ledger counts 4\n" in done.stdout
    assert done.stdout.count("wrong: not absorbed: version ") == 4
    done = job("verify", lake, "--model", str(checkpoint), "--repair", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr, answer["ok"], answer["problems"]) == (0, "", True, {})
    assert answer["mended"] == [
        "the ledger: 4 rows were written from the table's log, 0 removed",
        "laion 1.tar: counted anew, 3 rows; the next run embeds it again",
        "1 rejects that do not count were removed",
    ]
    assert answer["warnings"]["to be embedded again"]["count"] == 1
    assert job("verify", lake, "--sample", "0").returncode == 0


def test_verify_with_another_model_is_refused_and_needs_none_without_a_sample(lake: Lake) -> None:
    done = job("verify", lake)
    assert (done.returncode, done.stdout) == (1, "")
    assert "was made with another model or preprocessing" in done.stderr
    assert job("verify", lake, "--sample", "0").returncode == 0


@pytest.mark.parametrize("name", ["verify", "compact"])
def test_jobs_on_a_table_that_is_not_there_say_so_in_one_line(name: str, tmp_path: Path) -> None:
    done = job(name, Lake(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no table laion in ")
    assert done.stderr.count("\n") == 1


def test_compact_says_what_it_did_and_verify_holds(lake: Lake, checkpoint: Path) -> None:
    done = job("compact", lake)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("laion: merged 2 fragments, has 2 now; removed 0 old versions and 0 files")
    done = job("compact", lake, "--older-than", "0s", "--nobody-writes", "--remove-orphans", "--json")
    assert (done.returncode, json.loads(done.stdout)["tables"]["laion"]["files"]) == (0, 2)
    assert job("verify", lake, "--model", str(checkpoint)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--older-than", "soon"), 2, "--older-than 'soon' is not valid: allowed is a number with d, h, m or s"),
        (("--older-than", "10m"), 2, "allowed is 1h or more"),
        (("--remove-orphans",), 1, "somebody may be writing: stop all jobs and wait an hour"),
    ],
)
def test_compact_refuses_what_could_harm(lake: Lake, arguments: tuple[str, ...], code: int, said: str) -> None:
    before = lake.rows().version
    done = job("compact", lake, *arguments)
    assert (done.returncode, done.stderr.count("\n"), lake.rows().version) == (code, 1, before)
    assert said in done.stderr
