"""`build_index.py` as a person types it, and indexes built by Ray's workers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs import build_index
from pipeline.index import Tuned, tuned
from pipeline.indexes import work
from pipeline.indexes.build import described
from pipeline.indexes.measure import Measured
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query
from tests.typed import Done, typed
from tests.vectors import VectorLake, drawn


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> VectorLake:
    lake = VectorLake(tmp_path_factory.mktemp("made"))
    for seed in range(4):
        lake.add(400, seed)
    return lake


@pytest.fixture
def lake(made: VectorLake, tmp_path: Path) -> VectorLake:
    """A copy of the table."""
    shutil.copytree(Path(made.database.uri), tmp_path / "lake")
    lake = VectorLake(tmp_path)
    lake.names, lake.images = list(made.names), made.images
    return lake


def job(lake: VectorLake, *arguments: str) -> Done:
    return typed("build_index", "--db", lake.database.uri, *arguments)


def test_job_builds_measures_and_says_what_it_is_worth(lake: VectorLake) -> None:
    done = job(lake, "--column", "image,text", "--kind", "ivf_sq", "--partitions", "8", "--queries", "30")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "laion: 3,200 rows"
    assert lines[1] == "image: ivf_sq with 8 partitions: as asked"
    assert lines[2].startswith("  built in ")
    assert "searched with nprobes " in lines[2]
    assert [line.split(",")[0].rpartition(" ")[2] for line in lines[3:5]] == ["pictures", "captions"]
    assert [line.split(":")[0] for line in lines[8:]] == ["id", "shard", "sha256", "itc_score", "itm_score", "caption"]
    assert tuned(lake.dataset(), "image") is not None


def test_job_prints_one_object_for_machines(lake: VectorLake) -> None:
    done = job(lake, "--kind", "ivf_flat", "--partitions", "4", "--queries", "20", "--no-scalars", "--json")
    said = json.loads(done.stdout)
    (one,) = said["vectors"]
    assert (done.returncode, done.stderr, said["enough"], one["enough"]) == (0, "", True, True)
    assert (one["kind"], one["partitions"], [other["column"] for other in said["others"]]) == (
        "ivf_flat",
        4,
        ["caption"],
    )
    assert {m["sort"]: m["count"] for m in one["measured"]} == {"pictures": 20, "captions": 20}
    assert json.loads(lake.database.open("runs").to_table()["summary"][0].as_py()) == said


def test_job_that_is_asked_for_what_cannot_be_says_so_in_one_line(lake: VectorLake, tmp_path: Path) -> None:
    wrong = job(lake, "--column", "picture")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: --column 'picture' is not valid: allowed is image, text, cross\n"
    cross = job(lake, "--column", "cross")
    assert cross.returncode == 1
    assert "holds no cross_embedding: index another --column, which is image, text" in cross.stderr
    nowhere = job(VectorLake(tmp_path / "nowhere"))
    assert nowhere.returncode == 1
    assert "there is no table laion in" in nowhere.stderr


def test_job_ends_with_1_where_the_index_finds_too_little(
    lake: VectorLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = [Measured("pictures", 40, 0.94, 1, 2)]
    monkeypatch.setattr(work, "tune", lambda *_: (Tuned(8, 50), poor))
    options = build_index.Options(db=lake.database.uri, kind="ivf_sq", partitions=8, queries=4)
    assert build_index.main(options) == 1
    assert "  too little is found: --min-recall is 0.95; try another --kind, or more" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_sq", "ivf_pq"])
def test_index_built_by_workers_is_one_index_of_all_rows_and_finds_what_it_should(
    lake: VectorLake, kind: str, ray_session: None
) -> None:
    request = Request(kind=kind, partitions=8, distributed=True, queries=40, scalars=False, fulltext=False)
    (one,) = index(lake.database, request).vectors
    assert (one.kind, one.partitions, one.enough) == (kind, 8, True)
    there = described(lake.dataset(), "image_embedding")
    assert (there.num_rows_indexed, len(there.segments)) == (3200, 1)
    vectors = drawn(20, 9).astype(np.float32)
    found = [nearest(lake.dataset(), v, Query("-"), 10)["sha256"].to_pylist() for v in vectors]
    assert sum(len({*names} & {*lake.nearest(v)}) for names, v in zip(found, vectors, strict=True)) >= 180
    lake.add(60, 50)
    index(lake.database, Request(optimize=True, queries=5, scalars=False, fulltext=False))
    assert described(lake.dataset(), "image_embedding").num_rows_indexed == 3320
    assert (
        nearest(lake.dataset(), lake.images[-1].astype(np.float32), Query("-"), 1)["sha256"][0].as_py()
        == lake.names[-1]
    )
