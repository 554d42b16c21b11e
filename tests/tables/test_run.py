"""A whole run with Ray left out: the stages are called one after another where Ray would call them.

The same run on Ray is in tests/integration/test_run.py.
"""

import html
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipeline.cluster
import pipeline.ending
import pipeline.prepare
import pipeline.run
from pipeline.capacity import Capacity, Group
from pipeline.config import EmbedConfig, FaultConfig, Keep, ReadConfig, RunConfig, Tagging, WriteConfig
from pipeline.database import Database
from pipeline.datasets import Place
from pipeline.decode import decode
from pipeline.embed import Model, embed_batch
from pipeline.errors import (
    ClusterError,
    ConfigError,
    ContractError,
    InputError,
    RejectRateError,
    ShardError,
    StalledError,
    TableError,
)
from pipeline.follow import Follow
from pipeline.gather import inspect_block
from pipeline.ledger import Ledger
from pipeline.prepare import prepare_slice
from pipeline.recheck import _fingerprint
from pipeline.replay import as_embedded
from pipeline.roots import source_roots
from pipeline.run import Run
from pipeline.shards import Slice
from pipeline.stores.retry import GaveUpError
from pipeline.summary import Summary
from pipeline.upkeep.delete import delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from pipeline.watch.progress import Counts
from pipeline.write import Job, write_jobs
from tests.fakes import CONTRACT, WORDS, FakeEmbedder, FakePreparer, fake_model
from tests.shards import members, picture, tar_bytes, write_parquet, write_tar

PARTS = (ReadConfig, FaultConfig)


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


def stream_here(run: Run, place: Place, follow: Follow) -> None:
    """What `Run._stream` has Ray do, in this process."""
    read = replace(run.config.read, keep=place.stored.keep)
    for attempt, slice_ in follow.slices.items():
        for prepared in prepare_slice(slice_, attempt, read, FakePreparer(), follow.barred):
            made = embed_batch(prepared, FakeEmbedder(), place.stored, run.config.embed.batch_size)
            follow._inspected(made, *inspect_block(made))
    for ready in follow._ready:
        job = Job(ready.attempt, tuple(range(len(ready.refs))), ready.positions, ready.parts)
        follow._written(write_jobs(follow._target, [job], *ready.refs))
    follow._committer.commit()


@contextmanager
def no_cluster() -> Iterator[Capacity]:
    two_cpus = (Group(1, 2.0, 0.0),)
    yield Capacity(two_cpus, two_cpus)


def fingerprints_here(slices: Sequence[Slice], config: ReadConfig) -> dict[str, str]:
    found = {slice_.name: _fingerprint(slice_, config) for slice_ in slices}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}


def columns(numbers: range) -> dict[str, list[Any]]:
    return {"key": [f"{i}" for i in numbers], "image": [picture(i) for i in numbers], "caption": ["c"] * len(numbers)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        write_tar(folder / f"{i:05d}.tar", members(4, start=i * 4))
    return folder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Summary]:
    monkeypatch.setattr(pipeline.cluster, "joined", no_cluster)
    monkeypatch.setattr(pipeline.run, "require_nodes", lambda db, shards: [])
    monkeypatch.setattr(pipeline.run, "fingerprints", fingerprints_here)
    monkeypatch.setattr(Run, "_stream", stream_here)

    def start(*inputs: object, model: Model | None = None, said: Said | None = None, **options: Any) -> Summary:
        of = {part: {f.name: options.pop(f.name) for f in fields(part) if f.name in options} for part in PARTS}
        again = options.pop("replay", None)
        embed = EmbedConfig(tags=options.pop("tags", None))
        read, faults = ReadConfig(tuple(map(str, inputs)), **of[ReadConfig]), FaultConfig(**of[FaultConfig])
        config = RunConfig(read, WriteConfig(str(tmp_path / "lake"), **options), embed, faults)
        run = Run(config, model or fake_model(), said or Said())
        return run.start() if again is None else run.replay(again)

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
    assert "shards: skipped 3, pending 0, failed before 0, changed 0, quarantined 0" in said.lines
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


def test_run_writes_a_report_also_of_shards_that_failed_and_none_where_nothing_was_to_be_done(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:3000])
    first = start(shards, report=True)
    assert (first.outcome, first.lines()[-1]) == ("incomplete", f"report: {first.report}")
    assert first.failures["00001.tar"] in html.unescape(Path(first.report).read_text(encoding="utf-8"))
    (shards / "00001.tar").write_bytes(whole)
    assert [start(shards, report=wanted).report for wanted in (False, True)] == ["", ""]
    assert [json.loads(r["summary"])["report"] for r in rows(tmp_path, "runs")] == [first.report, ""]


@pytest.mark.parametrize(
    ("error", "told"),
    [(RejectRateError, 1), (ClusterError, 1), (StalledError, 0), (TableError, 0), (KeyboardInterrupt, 0)],
)
def test_run_that_its_rejects_or_the_cluster_ended_says_where_its_report_is(
    start: Callable[..., Summary],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    told: int,
) -> None:
    def ended(run: Run, place: Place, follow: Follow) -> None:
        stream_here(run, place, follow)
        raise error("it ends here")

    monkeypatch.setattr(Run, "_stream", ended)
    said = Said()
    with pytest.raises(error):
        start(shards, report=True, said=said)
    pages = [str(path) for path in tmp_path.glob("lake/laion_reports/*.html")]
    assert [f"report: {page}" for page in pages] == [line for line in said.lines if line.startswith("report: ")]
    assert len(pages) == told


def test_run_that_is_ended_while_it_writes_its_report_is_recorded(
    start: Callable[..., Summary], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.ending, "reported", lambda *args: sys.exit(143))
    with pytest.raises(SystemExit):
        start(shards, report=True)
    assert [r["outcome"] for r in rows(tmp_path, "runs")] == ["done"]


def test_run_replaces_the_rows_of_changed_shards(start: Callable[..., Summary], shards: Path, tmp_path: Path) -> None:
    start(shards)
    write_tar(shards / "00001.tar", [*members(5, start=20), ("bad.jpg", b"no picture"), ("bad.txt", b"a caption")])
    again = start(shards)
    assert (again.outcome, again.rows, again.replaced, again.touched) == ("done", 5, 1, 0)
    keys = sorted(r["key"] for r in rows(tmp_path) if r["shard"] == "00001.tar")
    assert keys == [f"{i:05d}" for i in range(20, 25)]
    assert len(rows(tmp_path)) == 13
    assert again.rejects == {"undecodable": 1}
    third = start(shards)
    assert (third.skipped, third.rows, third.replaced) == (3, 0, 0)


def test_run_keeps_the_vectors_of_shards_that_were_only_touched(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    write_tar(shards / "00003.tar", [*members(2, start=20), ("bad.jpg", b"no picture"), ("bad.txt", b"a caption")])
    first = start(shards)
    for path in shards.iterdir():
        os.utime(path, (1, 1))
    before, said = rows(tmp_path), Said()
    again = start(shards, said=said)
    assert (again.outcome, again.rows, again.touched, again.replaced, again.calls) == ("done", 0, 4, 0, 0)
    assert "only copied or touched, their rows stay: 4 shards" in said.lines
    assert rows(tmp_path) == before
    ledger = Ledger(Database(str(tmp_path / "lake"), "laion"), "laion").current()
    assert {r.attempt.partition("-")[0] for r in ledger.values()} == {first.run_id}
    assert sum(r.embedded for r in ledger.values()) == len(before)
    assert start(shards).skipped == 4


def test_run_leaves_a_changed_shard_that_cannot_be_read_as_it_was(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:3000])
    again = start(shards)
    assert (again.outcome, list(again.failures), len(rows(tmp_path))) == ("incomplete", ["00001.tar"], 12)
    write_tar(shards / "00001.tar", members(1, start=30))
    assert (start(shards).outcome, len(rows(tmp_path))) == ("done", 9)


def test_run_replaces_all_slices_of_a_parquet_together(
    start: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data / "a.parquet", columns(range(6)), 2)
    assert start(data, slice_bytes=1).committed == 3
    write_parquet(data / "a.parquet", columns(range(10, 18)), 2)
    seen: list[int] = []

    def slices_first_to_last(run: Run, place: Place, follow: Follow) -> None:
        follow._committer.commit()
        seen.append(len(rows(tmp_path)))
        stream_here(run, place, follow)

    monkeypatch.setattr(Run, "_stream", slices_first_to_last)
    again = start(data, slice_bytes=1)
    assert (again.rows, again.replaced, again.commits, seen) == (8, 1, 1, [6])
    assert len(rows(tmp_path)) == 8


def test_run_quarantines_a_shard_that_failed_three_runs_unchanged(start: Callable[..., Summary], shards: Path) -> None:
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:3000])
    for _ in range(3):
        assert start(shards).outcome == "incomplete"
    said = Said()
    fourth = start(shards, said=said)
    assert (fourth.outcome, list(fourth.quarantined), fourth.failures) == ("done", ["00001.tar"], {})
    assert "shards: skipped 2, pending 0, failed before 0, changed 0, quarantined 1" in said.lines
    assert any("quarantined" in line and "00001.tar" in line for line in fourth.lines())
    assert start(shards, retry_failed=True).outcome == "incomplete"
    (shards / "00001.tar").write_bytes(whole)
    fifth = start(shards)
    assert (fifth.outcome, fifth.rows, fifth.quarantined) == ("done", 4, {})


def test_run_allows_as_many_failed_shards_as_it_is_told(start: Callable[..., Summary], shards: Path) -> None:
    for name in ("00000.tar", "00001.tar"):
        (shards / name).write_bytes((shards / name).read_bytes()[:3000])
    assert start(shards, allow_failed_shards=1).outcome == "incomplete"
    told = start(shards, allow_failed_shards=2)
    assert (told.outcome, len(told.failures)) == ("done", 2)


def test_run_names_vanished_shards_keeps_their_rows_and_prunes_them_when_told(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    gone = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").unlink()
    assert start(shards).vanished == ("00001.tar",)
    assert len(rows(tmp_path)) == 12
    pruned = start(shards, prune=True)
    assert (pruned.outcome, pruned.vanished, pruned.commits) == ("done", ("00001.tar",), 1)
    assert pruned.pruned == ("00001.tar",)
    assert {r["shard"] for r in rows(tmp_path)} == {"00000.tar", "00002.tar"}
    assert start(shards).vanished == ()
    (shards / "00001.tar").write_bytes(gone)
    assert (start(shards).rows, len(rows(tmp_path))) == (4, 12)


def test_run_refuses_another_caption_key_and_shows_both(start: Callable[..., Summary], shards: Path) -> None:
    start(shards)
    with pytest.raises(ConfigError, match=r"dataset 'laion' was read with .*\[\].* this run has .*alt.*--dataset"):
        start(shards, caption_keys=("alt",))


def test_run_may_name_its_caption_key_after_a_first_run_that_committed_nothing(
    start: Callable[..., Summary], tmp_path: Path
) -> None:
    shard = write_parquet(tmp_path / "a.parquet", {"image": [picture(1)], "alt": ["a ring"]})
    assert "name it with --caption-key" in start(shard).failures["a.parquet"]
    assert start(shard, caption_keys=("alt",)).rows == 1
    with pytest.raises(ConfigError, match="--caption-key"):
        start(shard)


def test_run_brings_a_new_column_along_and_goes_on_with_it_unasked(
    start: Callable[..., Summary], tmp_path: Path
) -> None:
    def shard(name: str) -> Path:
        fields = json.dumps({"similarity": 0.5, "caption": "c"}).encode()
        return write_tar(tmp_path / name, [("a.jpg", members(1)[0][1]), ("a.json", fields)])

    start(shard("one.tar"))
    start(shard("two.tar"), keep=(Keep("similarity"),))
    start(shard("three.tar"))
    found = {r["shard"]: r["similarity"] for r in rows(tmp_path)}
    assert found == {"one.tar": None, "two.tar": 0.5, "three.tar": 0.5}


def test_tags_are_added_by_name_and_a_run_without_them_leaves_its_rows_null(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    first, second, third = sorted(shards.iterdir())
    start(first)
    start(second, tags=Tagging(2))
    start(third, keep=(Keep("number", "int64"),))
    os.utime(second, (1, 1))
    assert start(shards).touched == 1  # and its rows keep what they have
    found = {(r["shard"], r["key"]): (r["tags"], r["tag_probabilities"]) for r in rows(tmp_path)}
    told = {key: tags for (shard, key), tags in found.items() if shard == second.name}
    values = {f"{i:05d}": FakePreparer().picture(decode(picture(i), 10**6).picture)[0, 0, 0] % 4 for i in range(4, 8)}
    assert told == {key: ([WORDS[b], WORDS[(b + 1) % 4]], [0.5, 0.25]) for key, b in values.items()}
    assert {tags for (shard, _), tags in found.items() if shard != second.name} == {(None, None)}
    assert json.loads(rows(tmp_path, "runs")[1]["configuration"])["embed"]["tags"] == {
        "count": 2,
        "prompt": "a photo of a <mask>",
    }
    assert not verify(Database(str(tmp_path / "lake"), "laion")).problems


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (
            Tagging(3),
            "laion.lance has 2 tags for 'a photo of a <mask>', this run would add 3 for 'a photo of a <mask>'",
        ),
        (Tagging(2, "a <mask>"), "has 2 tags for 'a photo of a <mask>', this run would add 2 for 'a <mask>': use the"),
    ],
)
def test_tags_that_were_asked_for_otherwise_are_refused(
    start: Callable[..., Summary], shards: Path, tags: Tagging, said: str
) -> None:
    start(shards, tags=Tagging(2))
    assert start(shards, tags=Tagging(2)).skipped == 3
    with pytest.raises(ContractError, match=said):
        start(shards, tags=tags)


def test_tags_beside_a_column_of_that_name_from_the_metadata_are_refused(
    start: Callable[..., Summary], tmp_path: Path
) -> None:
    fields = json.dumps({"tags": "mine", "caption": "c"}).encode()
    shard = write_tar(tmp_path / "a.tar", [("a.jpg", members(1)[0][1]), ("a.json", fields)])
    start(shard, keep=(Keep("tags"),))
    with pytest.raises(ContractError, match="has a column tags that --keep brought, this run would add 2 for"):
        start(shard, tags=Tagging(2))
    assert [r["tags"] for r in rows(tmp_path)] == ["mine"]


def test_replay_keeps_the_tags_that_the_table_has(start: Callable[..., Summary], tmp_path: Path) -> None:
    large = [("big.jpg", picture(3, size=(64, 64))), ("big.txt", b"big")]
    shard = write_tar(tmp_path / "a.tar", [*members(2), *large])
    start(shard, max_pixels=2000, tags=Tagging(2, "a <mask>"))
    _, _, embed = as_embedded(WriteConfig(str(tmp_path / "lake")), EmbedConfig(batch_size=3), 10**6)
    assert embed == EmbedConfig(batch_size=3, tags=Tagging(2, "a <mask>"))
    assert start(shard, replay=("too_large",), tags=embed.tags).rows == 1
    assert [len(r["tags"]) for r in rows(tmp_path)] == [2, 2, 2]


def test_replay_of_a_table_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"there is no table laion in .*lake: embed shards into it first"):
        as_embedded(WriteConfig(str(tmp_path / "lake")), EmbedConfig(), 10**6)


def test_run_takes_the_data_where_it_moved_to_and_refuses_a_root_of_other_shards(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    (tmp_path / "moved").mkdir()
    moved = shards.rename(tmp_path / "moved" / "here")
    with pytest.raises(
        ConfigError, match=r"none of the 3 shards there is one of dataset 'laion' \(here here/00000.tar"
    ):
        start(moved, source_root=str(tmp_path / "moved"))
    assert start(moved, source_root=str(moved)).skipped == 3
    assert source_roots(Database(str(tmp_path / "lake"), "laion")) == {"laion": str(moved)}


def test_replay_works_after_a_column_was_added_and_a_touch_keeps_the_vectors(
    start: Callable[..., Summary], tmp_path: Path
) -> None:
    fields = json.dumps({"similarity": 0.5, "caption": "c"}).encode()
    good = [("a.jpg", members(1)[0][1]), ("a.json", fields)]
    shard = write_tar(tmp_path / "a.tar", [*good, ("big.jpg", picture(3, size=(64, 64))), ("big.json", fields)])
    start(shard, max_pixels=2000)
    start(write_tar(tmp_path / "b.tar", good), keep=(Keep("similarity"),))
    os.utime(shard, (1, 1))
    assert start(shard).touched == 1
    assert start(shard, replay=("too_large",)).rows == 1


def test_a_column_that_this_run_did_not_ask_for_rejects_nothing(start: Callable[..., Summary], tmp_path: Path) -> None:
    def shard(name: str, score: object) -> Path:
        fields = json.dumps({"score": score, "caption": "c"}).encode()
        return write_tar(tmp_path / name, [("a.jpg", members(1)[0][1]), ("a.json", fields)])

    start(shard("one.tar", 0.5), keep=(Keep("score"),), dataset="one")
    assert start(shard("two.tar", "high"), dataset="two").rows == 1
    (row,) = (r for r in rows(tmp_path) if r["dataset"] == "two")
    assert (row["score"], json.loads(row["metadata"])["score"]) == (None, "high")


def test_run_does_not_quarantine_a_shard_for_a_store_that_is_down(
    start: Callable[..., Summary], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: object) -> Iterator[object]:
        raise ShardError("00000.tar", "the store cannot be reached") from GaveUpError(14, 120.0, "unreachable")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.prepare, "read_slice", down)
        for _ in range(4):
            assert start(shards).outcome == "incomplete"
    assert start(shards).rows == 12


def test_run_reads_no_shard_that_was_replaced_since_it_was_listed(
    start: Callable[..., Summary], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(run: Run, place: Place, follow: Follow) -> None:
        data = (shards / "00001.tar").read_bytes()
        (shards / "00001.tar").write_bytes(data.replace(b"caption", b"CAPTION"))
        os.utime(shards / "00001.tar", (5, 5))
        stream_here(run, place, follow)

    monkeypatch.setattr(Run, "_stream", late)
    first = start(shards)
    assert (first.outcome, first.rows) == ("incomplete", 8)
    assert "changed since it was listed" in first.failures["00001.tar"]


def test_two_first_runs_with_other_globs_share_one_root(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    deep = shards / "deep"
    deep.mkdir()
    write_tar(deep / "00009.tar", members(2, start=40))
    start(shards / "*.tar")
    start(deep / "*.tar")
    assert {r["shard"] for r in rows(tmp_path)} == {"00000.tar", "00001.tar", "00002.tar", "deep/00009.tar"}


def test_replay_tries_only_rejected_pairs_and_moves_those_that_succeed(
    start: Callable[..., Summary], tmp_path: Path
) -> None:
    large = picture(3, size=(64, 64))
    shard = write_tar(
        tmp_path / "a.tar",
        [*members(2), ("big.jpg", large), ("big.txt", b"big"), ("bad.jpg", b"no picture"), ("bad.txt", b"bad")],
    )
    first = start(shard, max_pixels=2000)
    assert (first.rows, first.rejects) == (2, {"too_large": 1, "undecodable": 1})
    again = start(shard, replay=("too_large",))
    assert (again.outcome, again.rows, again.rejects, again.calls) == ("done", 1, {"undecodable": 1}, 1)
    assert sorted(r["key"] for r in rows(tmp_path)) == ["00000", "00001", "big"]
    (record,) = Ledger(Database(str(tmp_path / "lake"), "laion"), "laion").current().values()
    assert (record.read, record.embedded, record.rejected) == (4, 3, 1)
    live = [r for r in rows(tmp_path, "rejects") if r["attempt"] == record.attempt]
    assert [(r["key"], r["position"]) for r in live] == [("bad", 3)]
    assert start(shard, replay=("too_large",)).rows == 0
    assert start(shard).skipped == 1


def test_replay_leaves_a_shard_that_has_changed(start: Callable[..., Summary], tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [*members(2), ("bad.jpg", b"no picture"), ("bad.txt", b"bad")])
    start(shard)
    write_tar(shard, [*members(3), ("bad.jpg", b"no picture"), ("bad.txt", b"bad")])
    again = start(shard, replay=("undecodable",))
    assert (again.outcome, again.rows) == ("incomplete", 0)
    assert "has changed: run embed_laion.py first" in again.failures["a.tar"]


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
    def die(run: Run, place: Place, follow: Follow) -> None:
        stream_here(run, place, follow)
        raise TableError("the store is gone")

    monkeypatch.setattr(Run, "_stream", die)
    with pytest.raises(TableError, match="the store is gone"):
        start(shards)
    assert [r["outcome"] for r in rows(tmp_path, "runs")] == ["failed"]
    monkeypatch.setattr(Run, "_stream", stream_here)
    assert start(shards).skipped == 3


def test_run_refuses_another_model_before_anything_is_read(
    start: Callable[..., Summary], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(shards / "00000.tar")
    monkeypatch.setattr(Run, "_stream", None)
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


def test_run_warns_of_gzipped_tars_before_it_reads_them(start: Callable[..., Summary], tmp_path: Path) -> None:
    write_tar(tmp_path / "plain.tar", members(1))
    said = Said()
    start(tmp_path / "plain.tar", said=said)
    assert not [line for line in said.lines if "are gzipped" in line]
    said = Said()
    for name in ("a.tar.gz", "b.tgz"):
        write_tar(tmp_path / name, members(1, start=len(name)))
    start(*tmp_path.glob("*.t*"), said=said)
    (line,) = [line for line in said.lines if "are gzipped" in line]
    assert line.startswith("warning: 2 of the shards are gzipped: ")
    assert said.lines.index(line) < said.lines.index(next(line for line in said.lines if "computing on" in line))


def test_run_leaves_out_what_was_taken_down_and_says_so(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards / "00000.tar")
    delete(Database(str(tmp_path / "lake"), "laion"), Order(urls=("http://x/1", "http://x/6", "http://x/7")))
    again = start(shards)
    assert (again.rows, again.taken_down, again.pairs) == (6, 2, 8)
    assert again.lines()[0] == "rows 6   rejects 0 (none)   taken down 2   captions cut 0"
    elsewhere = start(shards, dataset="other")
    assert (elsewhere.rows, elsewhere.taken_down) == (9, 3)
    assert start(shards).lines()[0] == "rows 0   rejects 0 (none)   captions cut 0"
    assert_holds(tmp_path)


def assert_holds(tmp_path: Path) -> None:
    found = verify(Database(str(tmp_path / "lake"), "laion"))
    assert found.problems == {}, found.lines()


def test_run_of_only_what_was_taken_down_is_done(start: Callable[..., Summary], shards: Path, tmp_path: Path) -> None:
    start(shards / "00000.tar")
    delete(Database(str(tmp_path / "lake"), "laion"), Order(urls=tuple(f"http://x/{i}" for i in range(12))))
    assert (start(shards).taken_down, start(shards).skipped, rows(tmp_path)) == (8, 3, [])
    assert_holds(tmp_path)


def test_takedown_keeps_the_books_of_each_slice_of_a_parquet(start: Callable[..., Summary], tmp_path: Path) -> None:
    path, database = tmp_path / "a.parquet", Database(str(tmp_path / "lake"), "laion")
    images = [b"no picture" if i in (7, 21) else picture(i) for i in range(24)]
    urls = [f"http://x/{i}" for i in range(24)]
    write_parquet(path, columns(range(24)) | {"image": images, "url": urls}, group_rows=2)
    cut = path.stat().st_size // 5
    start(path, slice_bytes=cut)

    def books() -> list[tuple[int, int, int, int]]:
        current = sorted(Ledger(database, "laion").current().values(), key=lambda r: r.slice)
        return [(r.read, r.embedded, r.rejected, r.taken_down) for r in current]

    before = books()
    assert len(before) > 2
    assert sum(read for read, *_ in before) == 24
    for gone in ([0], [5, 7], [20, 21, 22, 23], [4, 6], range(24)):  # a whole row group, a whole slice, all of it
        delete(database, Order(urls=tuple(f"http://x/{i}" for i in gone)))
        assert_holds(tmp_path)
        there = {int(row["key"]) for row in rows(tmp_path)}
        rejects = {int(row["key"]) for row in rows(tmp_path, "rejects")}
        start_of = 0
        for read, embedded, rejected, taken in books():
            mine = set(range(start_of, start_of + read))
            assert (embedded, rejected) == (len(mine & there), len(mine & rejects))
            assert taken == read - embedded - rejected
            start_of += read
    assert (start(path, slice_bytes=cut).skipped, rows(tmp_path)) == (1, [])


def test_replay_leaves_out_what_was_taken_down_since(
    start: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(i: int) -> list[tuple[str, bytes]]:
        fields = json.dumps({"caption": "c", "url": f"http://x/{i}"}).encode()
        return [(f"{i}.jpg", picture(i, size=(64, 64))), (f"{i}.json", fields)]

    shard = write_tar(tmp_path / "a.tar", [*members(2), *large(5), *large(6), *large(7)])
    assert start(shard, max_pixels=2000).rejects == {"too_large": 3}
    database = Database(str(tmp_path / "lake"), "laion")
    delete(database, Order(urls=("http://x/5",)))

    def late(run: Run, place: Place, follow: Follow) -> None:
        delete(database, Order(urls=("http://x/6",)))
        stream_here(run, place, follow)

    monkeypatch.setattr(Run, "_stream", late)
    again = start(shard, replay=("too_large",))
    assert (again.outcome, again.rows, again.taken_down) == ("done", 1, 1)
    assert sorted(r["key"] for r in rows(tmp_path)) == ["00000", "00001", "7"]
    (record,) = Ledger(database, "laion").current().values()
    assert (record.read, record.embedded, record.rejected, record.taken_down) == (5, 3, 0, 2)
    assert_holds(tmp_path)


def test_a_shard_that_was_pruned_and_comes_again_does_not_bring_a_pair_back(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    delete(Database(str(tmp_path / "lake"), "laion"), Order(urls=("http://x/1",)))
    away = (shards / "00000.tar").rename(tmp_path / "00000.tar")
    assert start(shards, prune=True).pruned == ("00000.tar",)
    away.rename(shards / "00000.tar")
    assert (start(shards).taken_down, len(rows(tmp_path))) == (1, 11)
    assert_holds(tmp_path)


def test_a_touched_shard_keeps_its_counts_and_its_fingerprint_after_a_takedown(
    start: Callable[..., Summary], shards: Path, tmp_path: Path
) -> None:
    start(shards)
    delete(Database(str(tmp_path / "lake"), "laion"), Order(urls=("http://x/1",)))
    os.utime(shards / "00000.tar", (7, 7))
    again = start(shards)
    assert (again.touched, again.rows, again.calls, len(rows(tmp_path))) == (1, 0, 0, 11)
    assert start(shards).skipped == 3
    assert_holds(tmp_path)
