"""A whole run with Ray left out: the stages are called one after another where Ray would call them.

The same run on Ray is in tests/integration/test_run.py.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import EmbedConfig, Keep, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Model, Stored, embed_batch
from pipeline.errors import ContractError, InputError, TableError
from pipeline.follow import Follow
from pipeline.gather import inspect_block
from pipeline.prepare import prepare_slice
from pipeline.progress import Counts
from pipeline.run import Run
from pipeline.shards import Plan
from pipeline.summary import Summary
from pipeline.table import Database
from pipeline.write import Job, write_jobs
from tests.fakes import CONTRACT, FakeEmbedder, FakePreparer, fake_model
from tests.shards import members, tar_bytes, write_tar


class Said:
    """An observer that remembers the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed = False

    def say(self, line: str) -> None:
        self.lines.append(line)

    def update(self, counts: Counts) -> None:
        raise AssertionError("nothing is followed here")

    def close(self) -> None:
        self.closed = True


def embed_here(run: Run, todo: Plan, stored: Stored, follow: Follow) -> None:
    """What `Run._embed` has Ray do, in this process."""
    read = replace(run.config.read, keep=stored.keep)
    for attempt, slice_ in follow.slices.items():
        for prepared in prepare_slice(slice_, attempt, read, FakePreparer()):
            made = embed_batch(prepared, FakeEmbedder(), stored, run.config.embed.batch_size)
            follow._inspected(made, *inspect_block(made))
    for ready in follow._ready:
        job = Job(ready.attempt, tuple(range(len(ready.refs))), ready.positions, ready.parts)
        follow._written(write_jobs(follow._target, [job], *ready.refs))
    follow._committer.commit()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        write_tar(folder / f"{i:05d}.tar", members(4, start=i * 4))
    return folder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Summary]:
    monkeypatch.setattr(Run, "_embed", embed_here)

    def start(*inputs: object, model: Model | None = None, said: Said | None = None, **options: Any) -> Summary:
        read = {k: options.pop(k) for k in ("keep",) if k in options}
        config = RunConfig(
            ReadConfig(tuple(map(str, inputs)), **read), WriteConfig(str(tmp_path / "lake"), **options), EmbedConfig()
        )
        return Run(config, model or fake_model(), said or Said()).start()

    return start


def rows(tmp_path: Path, suffix: str = "", table: str = "laion") -> list[dict[str, Any]]:
    database = Database(str(tmp_path / "lake"), table)
    dataset = database.open(suffix)
    made: pa.Table = database.scan(suffix, dataset, dataset.schema.names)
    return made.to_pylist()


def test_run_counts_add_up_and_the_next_one_does_nothing(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    first, said = start(shards), Said()
    assert (first.outcome, first.rows, first.committed, first.commits) == ("done", 12, 3, 1)
    second = start(shards, said=said)
    assert (second.outcome, second.rows, second.skipped, second.commits) == ("done", 0, 3, 0)
    assert "skipped 3 shards, pending 0, changed 0" in said.lines
    assert said.closed
    assert len({r["id"] for r in rows(tmp_path)}) == len(rows(tmp_path)) == 12


def test_run_ids_are_stable_over_the_order_and_the_place_of_the_shards(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    moved = shards.rename(tmp_path / "elsewhere")
    start(moved / "00002.tar", moved / "00000.tar", moved / "00001.tar", table="again", dataset="laion")
    assert {r["id"] for r in rows(tmp_path)} == {r["id"] for r in rows(tmp_path, table="again")}


def test_run_names_a_shard_that_failed_and_tries_it_again_next_time(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:3000])
    first = start(shards)
    assert (first.outcome, first.rows, list(first.failures)) == ("incomplete", 8, ["00001.tar"])
    failed = [r for r in rows(tmp_path, "shards") if r["outcome"] == "failed"]
    assert [(r["slice"], r["version"]) for r in failed] == [("00001.tar", None)]
    assert "00001.tar" in failed[0]["error"]
    (shards / "00001.tar").write_bytes(whole)
    second = start(shards)
    assert (second.outcome, second.rows, second.skipped) == ("done", 4, 2)


def test_run_leaves_changed_shards_as_they_were_and_says_so(start: Callable[..., Summary], shards: Path) -> None:
    start(shards)
    for i in range(3):
        write_tar(shards / f"{i:05d}.tar", members(5, start=i * 5))
    again = start(shards)
    assert (again.outcome, again.rows, again.changed) == ("incomplete", 0, ("00000.tar", "00001.tar", "00002.tar"))


def test_run_names_vanished_shards_and_keeps_their_rows(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    (shards / "00001.tar").unlink()
    assert start(shards).vanished == ("00001.tar",)
    assert len(rows(tmp_path)) == 12


def test_run_without_a_sample_says_what_was_looked_for(start: Callable[..., Summary], tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(tar_bytes([]))
    with pytest.raises(InputError, match=r"no sample in 1 shards .*looked for pictures"):
        start(tmp_path / "empty.tar")


def test_run_of_only_rejects_is_done_and_not_done_again(start: Callable[..., Summary], tmp_path: Path) -> None:
    write_tar(tmp_path / "bad.tar", [("a.jpg", b"no picture"), ("a.txt", b"a caption")])
    first = start(tmp_path / "bad.tar")
    assert (first.outcome, first.rows, first.rejects) == ("done", 0, {"undecodable": 1})
    assert start(tmp_path / "bad.tar").skipped == 1
    (rejected,) = rows(tmp_path, "rejects")
    assert (rejected["key"], rejected["reason"], rejected["stage"]) == ("a", "undecodable", "decode")


def test_run_rejects_a_pair_that_the_model_cannot_embed(start: Callable[..., Summary], tmp_path: Path) -> None:
    picture = members(1)[0][1]
    write_tar(tmp_path / "a.tar", [("a.jpg", picture), ("a.txt", b"a NaN"), ("b.jpg", picture), ("b.txt", b"fine")])
    assert (start(tmp_path / "a.tar").rejects, [r["key"] for r in rows(tmp_path)]) == ({"not_finite": 1}, ["b"])


def test_run_writes_a_slice_in_parts_exactly_once(start: Callable[..., Summary], tmp_path: Path) -> None:
    write_tar(tmp_path / "large.tar", members(150))
    summary = start(tmp_path / "large.tar", fragment_rows=20)
    assert sorted(r["key"] for r in rows(tmp_path)) == [f"{i:05d}" for i in range(150)]
    assert (summary.rows, summary.committed, summary.commits) == (150, 1, 1)


def test_run_is_recorded_with_its_configuration_and_what_it_did(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    summary = start(shards)
    (record,) = rows(tmp_path, "runs")
    assert (record["run_id"], record["outcome"]) == (summary.run_id, "done")
    assert json.loads(record["configuration"])["read"]["inputs"] == [str(shards)]
    assert json.loads(record["summary"])["rows"] == 12
    assert json.loads(record["versions"])["pylance"]
    assert record["started"] <= record["ended"]


def test_run_record_tells_no_secret_of_its_inputs(
    start: Callable[..., Summary], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RunConfig.to_json
    signed = "https://store/x.tar?X-Amz-Signature=SECRET&part=1"
    monkeypatch.setattr(RunConfig, "to_json", lambda self: recorded(replace(self, read=ReadConfig((signed,)))))
    start(shards)
    (record,) = rows(tmp_path, "runs")
    inputs = json.loads(record["configuration"])["read"]["inputs"]
    assert inputs == ["https://store/x.tar?X-Amz-Signature=***&part=1"]


def test_run_that_fails_is_recorded_as_failed_and_what_was_whole_stays(
    start: Callable[..., Summary], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(run: Run, todo: Plan, stored: Stored, follow: Follow) -> None:
        embed_here(run, todo, stored, follow)
        raise TableError("the store is gone")

    monkeypatch.setattr(Run, "_embed", die)
    with pytest.raises(TableError, match="the store is gone"):
        start(shards)
    assert [r["outcome"] for r in rows(tmp_path, "runs")] == ["failed"]
    monkeypatch.setattr(Run, "_embed", embed_here)
    assert start(shards).skipped == 3


def test_run_refuses_another_model_before_anything_is_read(
    start: Callable[..., Summary], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(shards / "00000.tar")
    monkeypatch.setattr(Run, "_embed", None)
    with pytest.raises(ContractError, match="weights"):
        start(shards, model=fake_model(replace(CONTRACT, weights="other")))


@pytest.mark.parametrize("order", [("similarity", "url_copy"), ("url_copy", "similarity")])
def test_run_keeps_columns_in_whatever_order_they_are_asked_for(
    start: Callable[..., Summary], tmp_path: Path, order: tuple[str, str]
) -> None:
    def shard(name: str) -> Path:
        fields = json.dumps({"similarity": 0.5, "url_copy": "u", "caption": "c"}).encode()
        return write_tar(tmp_path / name, [("a.jpg", members(1)[0][1]), ("a.json", fields)])

    start(shard("one.tar"), keep=(Keep("similarity"), Keep("url_copy")))
    start(shard("two.tar"), keep=tuple(Keep(name) for name in order))
    assert [(r["similarity"], r["url_copy"]) for r in rows(tmp_path)] == [(0.5, "u")] * 2
