"""Each invariant is broken on purpose and found; what can be derived is mended, and the next run makes it whole."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

import pipeline.upkeep.accounts
import pipeline.upkeep.census
from pipeline.errors import CommitConflictError, ContractError, TableError
from pipeline.records import SliceRecord, properties
from pipeline.schema import REJECTS, SHARDS
from pipeline.table import Change, Rows, commit
from pipeline.upkeep.compact import Limits, compact
from pipeline.upkeep.findings import Findings
from pipeline.upkeep.verify import verify
from tests.fakes import CONTRACT, fake_model
from tests.ingest import Lake, two_runs
from tests.moulds import Moulds

AT_ONCE = Limits(timedelta(0), nobody_writes=True)
Break = Callable[[Lake], object]


@pytest.fixture
def lake(moulds: Moulds, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return moulds.cast(two_runs)


def look(lake: Lake, mend: bool = False, sample: int = 0) -> Findings:
    return verify(lake.database, lake.model, sample, mend)


def problems(found: Findings) -> dict[str, int]:
    return {kind: one.count for kind, one in found.problems.items()}


def row(lake: Lake, shard: str = "1.tar", number: int = 0) -> dict[str, Any]:
    rows = lake.rows().to_table(filter=f"shard = '{shard}'").to_pylist()
    return sorted(rows, key=lambda r: r["key"])[number]


def add(lake: Lake, *rows: dict[str, Any], suffix: str = "", schema: pa.Schema | None = None) -> None:
    """As somebody would who knows nothing of ledgers."""
    table = pa.Table.from_pylist(list(rows), schema=schema or lake.layout.schema)
    lance.write_dataset(table, lake.database.path(suffix), mode="append")


def put(lake: Lake, **columns: Any) -> None:
    """Change a row of shard 1.tar behind everybody's back."""
    old = row(lake)
    lake.rows().delete(f"id = '{old['id']}'")
    add(lake, old | columns)


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def ledger_rows(lake: Lake) -> list[dict[str, Any]]:
    return lake.companion("shards").to_table().to_pylist()


def reject(lake: Lake, shard: str = "1.tar") -> dict[str, Any]:
    return lake.companion("rejects").to_table(filter=f"shard = '{shard}'").to_pylist()[0]


def test_verify_of_a_whole_table_says_what_it_looked_at(lake: Lake) -> None:
    found = look(lake, sample=6)
    assert (found.ok, found.problems, found.warnings) == (True, {}, {})
    assert found.checked == {
        "commits": 4,
        "ledger rows": 4,
        "slices": 3,
        "rows": 15,
        "vectors": 45,
        "shards": 3,
        "rejects": 6,
        "runs": 2,
        "rows embedded again": 6,
    }
    assert found.lines() == [
        "checked 4 commits, 4 ledger rows, 3 slices, 15 rows, 45 vectors, 3 shards, 6 rejects, 2 runs, "
        "6 rows embedded again: all holds"
    ]


def test_verify_writes_nothing(lake: Lake) -> None:
    def versions() -> list[int]:
        return [lake.rows().version, *(lake.companion(s).version for s in ("shards", "rejects", "runs"))]

    before = versions()
    look(lake)
    assert versions() == before


def counted_wrong(lake: Lake) -> None:
    base = Rows.open(lake.database)
    assert base is not None
    record = SliceRecord("laion", str(lake.root), "", "9.tar", "9.tar", 1, 1, "e", "b" * 12 + "-0", "b" * 12, read=3)
    commit(lake.database, base, lake.layout, Change([], properties([record]), "laion"))


BROKEN: dict[str, tuple[Break, dict[str, int]]] = {
    "doubled row": (lambda lake: add(lake, row(lake)), {"doubled id": 1, "rows": 1}),
    "row lost": (lambda lake: lake.rows().delete(f"id = '{row(lake)['id']}'"), {"rows": 1}),
    "all rows of a shard lost": (lambda lake: lake.rows().delete("shard = '1.tar'"), {"rows": 1}),
    "row of an unknown shard": (
        lambda lake: add(lake, row(lake) | {"shard": "x.tar", "id": "x"}),
        {"wrong id": 1, "rows": 1},
    ),
    "wrong id": (lambda lake: put(lake, id="0" * 32), {"wrong id": 1}),
    "no key": (lambda lake: put(lake, key=None), {"wrong id": 1}),
    "nan": (lambda lake: put(lake, text_embedding=vector(np.nan, 1, 0, 0)), {"vector": 1}),
    "infinite": (lambda lake: put(lake, text_embedding=vector(np.inf, 1, 0, 0)), {"vector": 1}),
    "zero": (lambda lake: put(lake, image_embedding=vector(0, 0, 0, 0)), {"vector": 1}),
    "not of unit length": (lambda lake: put(lake, cross_embedding=vector(0.997, 0, 0, 0)), {"vector": 1}),
    "no vector": (lambda lake: put(lake, cross_embedding=None), {"vector": 1}),
    "score out of range": (lambda lake: put(lake, itc_score=1.01, itm_score=-0.1), {"score": 2}),
    "score not finite": (lambda lake: put(lake, itm_score=float("nan")), {"score": 1}),
    "no score": (lambda lake: put(lake, itm_score=None), {"score": 1}),
    "tags of other length": (lambda lake: put(lake, tags=["cat"], tag_probabilities=[0.5, 0.25]), {"tags": 1}),
    "tags that rise": (lambda lake: put(lake, tags=["cat", "dog"], tag_probabilities=[0.25, 0.5]), {"tags": 1}),
    "a tag twice": (lambda lake: put(lake, tags=["cat", "cat"], tag_probabilities=[0.5, 0.25]), {"tags": 1}),
    "tag beyond 1": (lambda lake: put(lake, tags=["cat"], tag_probabilities=[1.5]), {"tags": 1}),
    "tag not finite": (lambda lake: put(lake, tags=["cat"], tag_probabilities=[float("nan")]), {"tags": 1}),
    "tags without probabilities": (lambda lake: put(lake, tags=["cat"], tag_probabilities=None), {"tags": 1}),
    "reject doubled": (
        lambda lake: add(lake, reject(lake), suffix="rejects", schema=REJECTS),
        {"doubled reject": 1},
    ),
    "reject lost": (
        lambda lake: lake.companion("rejects").delete("shard = '1.tar' AND position = 6"),
        {"rejects": 1},
    ),
    "reject beyond the pairs": (
        lambda lake: lake.companion("rejects").update({"position": "7"}, "shard = '1.tar' AND position = 6"),
        {"rejects": 1},
    ),
    "ledger row lost": (
        lambda lake: lake.companion("shards").delete("shard = '1.tar'"),
        {"ledger": 1},
    ),
    "ledger row doubled": (
        lambda lake: add(lake, ledger_rows(lake)[1], suffix="shards", schema=SHARDS),
        {"ledger": 1},
    ),
    "ledger row changed": (
        lambda lake: lake.companion("shards").update({"embedded": "4"}, "shard = '1.tar'"),
        {"ledger": 2, "run": 1},
    ),
    "ledger gone": (lambda lake: shutil.rmtree(lake.database.path("shards")), {"not absorbed": 4}),
    "counts that do not add up": (counted_wrong, {"not absorbed": 1, "counts": 1}),
}


@pytest.mark.parametrize(("broken", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_verify_finds_what_is_broken_and_repair_leaves_no_more_than_the_next_run_mends(
    lake: Lake, broken: Break, expected: dict[str, int]
) -> None:
    ids = lake.ids()
    broken(lake)
    found = look(lake)
    assert problems(found) == expected
    assert not found.ok
    mended = look(lake, mend=True)
    assert mended.mended
    embedded_again = [r["shard"] for r in ledger_rows(lake) if r["size"] == -1]
    for shard in set(embedded_again) & {"0.tar", "1.tar", "2.tar"}:
        lake.run(shard, replaces=True)
    for shard in set(embedded_again) - {"0.tar", "1.tar", "2.tar"}:
        lake.rows().delete(f"shard = '{shard}'")  # not a shard of ours: a run would name it as vanished
        lake.companion("shards").delete(f"shard = '{shard}'")
    if embedded_again:
        assert mended.warnings["to be embedded again"].count == len(embedded_again)
    else:
        assert mended.ok
    assert lake.ids() == ids


@pytest.mark.parametrize(
    ("broken", "anew"),
    [
        ("doubled row", False),
        ("reject doubled", False),
        ("ledger row lost", False),
        ("ledger gone", False),
        ("row lost", True),
        ("all rows of a shard lost", True),
        ("reject lost", True),
    ],
)
def test_repair_alone_makes_all_hold_and_says_which_shards_are_embedded_again(
    lake: Lake, broken: str, anew: bool
) -> None:
    BROKEN[broken][0](lake)
    found = look(lake, mend=True)
    assert (found.ok, "to be embedded again" in found.warnings) == (True, anew)
    again = look(lake, mend=True)
    assert (again.ok, again.mended) == (True, [])
    if anew:
        lake.run("1.tar", replaces=True)
    assert (look(lake).ok, look(lake).checked["rows"]) == (True, 15)


def test_repair_leaves_a_vector_that_is_unfit_to_the_next_run(lake: Lake) -> None:
    BROKEN["nan"][0](lake)
    for _ in range(2):  # a second time it has nothing more to do
        found = look(lake, mend=True)
        assert problems(found) == {"vector": 1}
    assert found.mended == []
    lake.run("1.tar", replaces=True)
    assert look(lake).ok


def test_repair_of_a_doubled_id_with_another_caption_is_left_to_a_person(lake: Lake) -> None:
    add(lake, row(lake) | {"caption": "another"})
    found = look(lake, mend=True)
    assert found.mended[0].startswith("not mended: id ")
    assert "its rows differ in caption" in found.mended[0]
    assert problems(found) == {"doubled id": 1}  # the rows are counted as they are


def test_repair_keeps_the_first_of_many_copies(lake: Lake) -> None:
    ids = lake.ids()
    for _ in range(3):
        add(lake, row(lake), row(lake, "2.tar"))
    assert problems(look(lake)) == {"doubled id": 6, "rows": 2}
    found = look(lake, mend=True)
    assert found.mended == ["6 rows that stood again under the same id were removed"]
    assert (found.ok, lake.ids()) == (True, ids)


def test_doubled_ids_are_found_also_in_parts(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.upkeep.census, "_IDS_AT_ONCE", 3)
    monkeypatch.setattr(pipeline.upkeep.census, "_BATCH", 2)
    assert look(lake).ok
    add(lake, *(row(lake, shard, 4) for shard in ("0.tar", "1.tar", "2.tar")))
    assert problems(look(lake))["doubled id"] == 3


def test_ids_with_one_hash_are_not_taken_for_doubled(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.upkeep.census, "_hashes", lambda batch: np.zeros(batch.num_rows, np.int64))
    assert look(lake).ok


def test_repair_of_a_ledger_that_is_gone_with_most_of_the_log_counts_the_shards_anew(lake: Lake) -> None:
    """Old versions were cleaned up, so for some shards nothing but their rows is known."""
    ids = lake.ids()
    compact(lake.database, AT_ONCE)
    lake.write("3.tar", 30, 4, 1)
    lake.run("3.tar")
    shutil.rmtree(lake.database.path("shards"))
    assert problems(look(lake)) == {"not absorbed": 2, "rows": 3, "run": 2}
    found = look(lake, mend=True)
    assert (found.ok, found.warnings["to be embedded again"].count, found.checked["runs"]) == (True, 3, 0)
    rows = {r["shard"]: r for r in ledger_rows(lake) if r["outcome"] == "committed"}
    assert {s: (r["size"], r["etag"], r["embedded"], r["replaces"]) for s, r in rows.items() if s != "3.tar"} == {
        f"{i}.tar": (-1, "", 5, True) for i in range(3)
    }
    assert {r["root"] for r in rows.values()} == {str(lake.root)}
    assert (rows["3.tar"]["embedded"], rows["3.tar"]["rejected"]) == (4, 1)
    lake.run("0.tar", "1.tar", "2.tar", replaces=True)
    assert look(lake).ok
    assert set(ids) < set(lake.ids())


def test_repair_does_not_guess_where_the_shards_lie(lake: Lake) -> None:
    shutil.rmtree(lake.database.path("shards"))
    lake.rows().update_config({"a": "b"})
    lake.rows().cleanup_old_versions(timedelta(0))
    found = look(lake, mend=True)
    assert found.mended == [
        f"not mended: laion {i}.tar: nothing tells any more where this dataset's shards lie" for i in range(3)
    ]
    assert problems(found) == {"rows": 3, "run": 2}
    assert found.warnings["rejects left over"].count == 6  # nobody knows whether they count


def test_commits_that_nobody_wrote_down_are_found_and_absorbed(lake: Lake) -> None:
    shutil.copytree(lake.database.path("shards"), f"{lake.folder}/before")
    lake.write("3.tar", 30, 4)
    lake.run("3.tar")
    shutil.rmtree(lake.database.path("shards"))
    shutil.move(f"{lake.folder}/before", lake.database.path("shards"))
    found = look(lake)
    assert problems(found) == {"not absorbed": 1}
    assert "version 6 brought laion 3.tar" in found.lines()[0]
    found = look(lake, mend=True)
    assert (found.ok, found.mended) == (True, ["the ledger: 1 rows were written from the table's log, 0 removed"])


def test_a_running_job_is_given_a_moment_to_write_down_what_it_committed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lake.database.path("shards"), f"{lake.folder}/after")
    lake.companion("shards").delete("version = 5")

    def sleep(seconds: float) -> None:
        shutil.rmtree(lake.database.path("shards"))
        shutil.move(f"{lake.folder}/after", lake.database.path("shards"))

    monkeypatch.setattr(pipeline.upkeep.accounts.time, "sleep", sleep)
    assert look(lake).ok


def test_what_is_committed_while_verify_looks_is_not_held_against_the_table(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has it already, the version that is looked at has not."""
    lake.write("3.tar", 30, 4)
    opened = Rows.open

    def then_commit(database: Any) -> Rows | None:
        rows = opened(database)
        monkeypatch.setattr(Rows, "open", opened)
        lake.run("3.tar", recorded=False)
        return rows

    monkeypatch.setattr(Rows, "open", then_commit)
    found = verify(lake.database)
    assert (found.ok, found.checked["rows"], found.checked["slices"]) == (True, 15, 3)
    assert verify(lake.database).checked["rows"] == 19


def test_table_made_anew_beside_an_old_ledger_is_named(lake: Lake) -> None:
    shutil.rmtree(lake.database.path())
    lake.database.create("", lake.layout.with_metadata)
    assert "ledger: it stands at version 5, the table is at 1: was it made anew?" in "\n".join(look(lake).lines())


def test_rejects_that_do_not_count_are_a_note_and_repair_sweeps_those_of_runs_that_are_over(lake: Lake) -> None:
    over, running = lake.run(), "f" * 12
    for run_id in (over, running):
        add(lake, reject(lake) | {"attempt": f"{run_id}-0", "run_id": run_id}, suffix="rejects", schema=REJECTS)
    found = look(lake)
    assert (found.ok, found.warnings["rejects left over"].count) == (True, 2)
    found = look(lake, mend=True)
    assert found.mended == ["1 rejects that do not count were removed"]
    assert found.warnings["rejects left over"].count == 1


def test_shards_that_were_replaced_touched_or_pruned_hold(lake: Lake) -> None:
    lake.write("1.tar", 40, 3, 1)
    lake.run("1.tar", replaces=True)
    touched = next(r for r in ledger_rows(lake) if r["shard"] == "0.tar")
    old = SliceRecord(**{k: touched[k] for k in SliceRecord.__dataclass_fields__})
    gone = replace(old, shard="2.tar", slice="2.tar", outcome="pruned", read=0, embedded=0, rejected=0, replaces=True)
    run_id = "c" * 12
    for record, shards in ((replace(old, etag="new", run_id=run_id, replaces=True), ()), (gone, ("2.tar",))):
        base = Rows.open(lake.database)
        assert base is not None
        commit(lake.database, base, lake.layout, Change([], properties([record]), "laion", shards))
    lake.record_run(run_id, 0)
    lake.run()  # absorbs
    found = look(lake)
    assert (found.ok, found.checked["rows"], found.checked["rejects"], found.checked["runs"]) == (True, 8, 3, 5)


def test_rejects_tried_again_count_for_their_run_by_what_is_new(lake: Lake) -> None:
    row_ = next(r for r in ledger_rows(lake) if r["shard"] == "0.tar")
    old = SliceRecord(**{k: row_[k] for k in SliceRecord.__dataclass_fields__})
    again = replace(old, attempt="d" * 12 + "-0", run_id="d" * 12, embedded=6, rejected=1)
    new = row(lake, "0.tar") | {"key": "00005"}
    new["id"] = pipeline.upkeep.census.row_id("laion", "0.tar", "00005", 0)
    add(lake, reject(lake, "0.tar") | {"attempt": again.attempt}, suffix="rejects", schema=REJECTS)
    base = Rows.open(lake.database)
    assert base is not None
    fragments = lake.database.write("", pa.Table.from_pylist([new], schema=lake.layout.schema))
    commit(lake.database, base, lake.layout, Change(fragments, properties([again]), "laion"))
    lake.record_run("d" * 12, 1)
    lake.run()
    assert look(lake).ok
    lake.record_run("d" * 12, 6)
    assert problems(look(lake)) == {"run": 1}


@pytest.mark.parametrize(("outcome", "wrong"), [("done", 1), ("incomplete", 1), ("failed", 0), ("interrupted", 0)])
def test_run_records_are_held_against_the_ledger(lake: Lake, outcome: str, wrong: int) -> None:
    run_id = lake.run("0.tar", replaces=True, recorded=False)
    lake.record_run(run_id, 4, outcome)
    found = look(lake)
    assert problems(found) == ({"run": 1} if wrong else {})
    if wrong:
        assert f"wrong: run: run {run_id} says that it committed 4 rows, the ledger says 5" in found.lines()


def test_orphans_are_a_note(lake: Lake) -> None:
    lake.database.write("", pa.Table.from_pylist([row(lake)], schema=lake.layout.schema))
    found = look(lake)
    assert found.ok
    assert "1 files of " in found.warnings["orphans"].examples[0]


def test_sample_finds_a_vector_of_another_picture(lake: Lake) -> None:
    old = vector(*row(lake)["image_embedding"])
    put(lake, image_embedding=np.roll(old, 1))
    found = look(lake, sample=15)
    assert problems(found) == {"sample": 1}
    assert "image_embedding is 1.414 from what the model gives now, allowed is 0.002" in found.lines()[0]


def test_sample_finds_another_score(lake: Lake) -> None:
    put(lake, itm_score=0.5)
    assert problems(look(lake, sample=15)) == {"sample": 1}


@pytest.mark.parametrize(
    ("last", "probabilities", "said"),
    [
        ("{second}", [0.5, 0.24], "tag {second!r} is 0.01 from what the model tells now, allowed is 0.005"),
        ("gone", [0.256, 0.25], "tag {first!r} is 0.244 from what"),
        ("gone", [0.5, 0.3], "tag 'gone' is 0.05 from what"),
        ("{second}", [0.499, 0.251], ""),  # as near as another machine may come
    ],
)
def test_sample_finds_tags_of_another_picture(lake: Lake, last: str, probabilities: list[float], said: str) -> None:
    """The model tells two words with 0.5 and 0.25; the last of the row's may be one that it no longer tells."""
    first, second = row(lake)["tags"]
    put(lake, tags=[first, last.format(second=second)], tag_probabilities=probabilities)
    found = look(lake, sample=15)
    assert problems(found) == ({"sample": 1} if said else {})
    assert said.format(first=first, second=second) in found.lines()[0]


def test_sample_passes_over_rows_without_tags(lake: Lake) -> None:
    put(lake, tags=None, tag_probabilities=None)
    assert look(lake, sample=15).ok


@pytest.mark.parametrize(
    ("dtype", "device", "off", "wrong"),
    [
        ("float32", "cpu", 0.003, 1),
        ("float32", "cuda", 0.003, 0),
        ("float32", "cuda", 0.02, 1),
        ("bfloat16", "cuda", 0.02, 0),
        ("bfloat16", "cuda", 0.2, 1),
        ("fp8", "cuda", 0.2, 0),
        ("fp8", "cuda", 0.4, 1),
        (None, "", 0.02, 0),
        (None, "", 0.2, 1),
    ],
)
def test_sample_is_compared_as_closely_as_the_run_computed(
    lake: Lake, dtype: str | None, device: str, off: float, wrong: int
) -> None:
    run_id = lake.run("1.tar", replaces=True, recorded=False)
    if dtype:
        lake.record_run(run_id, 5, dtype=dtype, device=device)
    turned = np.roll(row(lake)["image_embedding"], 1) * np.sin(off) + np.array(row(lake)["image_embedding"]) * np.cos(
        off
    )
    put(lake, image_embedding=turned.astype(np.float16))
    assert problems(look(lake, sample=15)) == ({"sample": 1} if wrong else {})


def test_sample_is_decoded_as_its_run_did(tmp_path: Path) -> None:
    lake = Lake(tmp_path, jpeg_draft=True)
    lake.write("1.tar", 0, 5)
    run_id = lake.run("1.tar", recorded=False)
    lake.record_run(run_id, 5)
    assert look(lake, sample=5).ok
    (tmp_path / "lake" / "laion_runs.lance").rename(tmp_path / "gone")
    replace(lake, jpeg_draft=False).record_run(run_id, 5)
    assert problems(look(lake, sample=5))["sample"] > 0


def test_sample_of_pictures_that_cannot_be_had_is_a_note(lake: Lake) -> None:
    (lake.root / "1.tar").unlink()
    found = look(lake, sample=15)
    assert (found.ok, found.warnings["not embedded again"].count) == (True, 5)
    assert found.checked["rows embedded again"] == 10


def test_sample_in_float32_is_compared_closely(tmp_path: Path) -> None:
    lake = Lake(tmp_path, storage="float32")
    lake.write("1.tar", 0, 3)
    lake.run("1.tar")
    assert look(lake, sample=3).ok
    near = np.array(row(lake)["image_embedding"], np.float32)
    near[np.argmin(near)] = 5e-4  # of unit length still, within 1e-5
    put(lake, image_embedding=near)
    assert problems(look(lake, sample=3)) == {"sample": 1}


def test_sample_of_an_empty_table_is_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.run()
    found = look(lake, sample=5)
    assert (found.ok, found.checked["rows"], found.checked["rows embedded again"]) == (True, 0, 0)


def test_another_model_is_refused_before_anything_is_looked_at(lake: Lake) -> None:
    other = fake_model(replace(CONTRACT, weights="x" * 8))
    with pytest.raises(ContractError, match="weights"):
        verify(lake.database, other, 1)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no table laion in "):
        verify(Lake(tmp_path).database)


def test_repair_beside_a_committing_job_gives_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN["row lost"][0](lake)
    swap = type(lake.database).swap

    def late(database: Any, suffix: str, *arguments: Any, **more: Any) -> Any:
        if not suffix:
            monkeypatch.setattr(type(lake.database), "swap", swap)
            lake.run("0.tar", replaces=True)
        return swap(database, suffix, *arguments, **more)

    monkeypatch.setattr(type(lake.database), "swap", late)
    with pytest.raises(CommitConflictError):
        look(lake, mend=True)


def test_findings_show_twenty_of_a_kind_and_the_count() -> None:
    found = Findings({"rows": 40})
    for i in range(25):
        found.problem("doubled id", f"id {i}")
    found.warn("orphans", "5 files", 5)
    lines = found.lines()
    assert lines[0] == "note: orphans: 5 files"
    assert lines[1] == "wrong: doubled id: id 0"
    assert lines[21] == "wrong: doubled id: and more, 25 in all"
    assert lines[22:] == ["checked 40 rows: wrong are doubled id 25"]
    assert found.to_dict()["problems"]["doubled id"]["count"] == 25


def test_rows_of_several_datasets_are_told_apart(lake: Lake) -> None:
    other = Lake(lake.folder, dataset="more")
    other.write("0.tar", 0, 4, 1)
    other.run("0.tar")
    assert look(lake).checked["shards"] == 4
    lake.rows().delete("dataset = 'more' AND key = '00000'")
    found = look(lake)
    assert "wrong: rows: more 0.tar: the table has 3, the ledger counts 4" in found.lines()
    assert look(lake, mend=True).ok
    anew = [r for r in ledger_rows(lake) if r["size"] == -1]
    assert [(r["dataset"], r["root"]) for r in anew] == [("more", str(other.root))]
    assert all(r["at"] <= datetime.now(UTC) for r in anew)
