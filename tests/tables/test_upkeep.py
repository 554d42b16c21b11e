"""Compaction and clean-up, alone and beside a job that commits; nothing that anybody needs goes."""

import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

import pipeline.upkeep.accounts
from pipeline.errors import ConfigError, TableError
from pipeline.ledger import Ledger
from pipeline.roots import source_roots
from pipeline.schema import REJECTS
from pipeline.table import Rows
from pipeline.upkeep import compact as upkeep
from pipeline.upkeep.compact import Limits, compact, merge_fragments, parse_age, sweep
from pipeline.upkeep.orphans import SUFFIXES, orphans
from pipeline.upkeep.verify import verify
from tests.ingest import READ_AS, Lake
from tests.moulds import Moulds

AT_ONCE = Limits(timedelta(0), nobody_writes=True)
HOURS = 3600


def six_shards(folder: Path) -> Lake:
    """By two runs, one of them replaced since."""
    lake = Lake(folder)
    for i in range(6):
        lake.write(f"{i}.tar", 10 * i, 4, 1)
    lake.run("0.tar", "1.tar", "2.tar")
    lake.run("3.tar", "4.tar", "5.tar")
    lake.write("2.tar", 100, 3, 2)
    lake.run("2.tar", replaces=True)
    return lake


@pytest.fixture
def lake(moulds: Moulds, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return moulds.cast(six_shards)


def fragments(lake: Lake, suffix: str = "") -> int:
    return len(lake.companion(suffix).get_fragments())


def versions(lake: Lake, suffix: str = "") -> list[int]:
    return [ref["version"] for ref in lake.companion(suffix).version_refs()]


def data_files(lake: Lake) -> set[str]:
    return {p.name for p in Path(lake.database.path(), "data").iterdir()}


def age(lake: Lake, seconds: float) -> None:
    """Make all files older."""
    then = time.time() - seconds
    for path in lake.folder.joinpath("lake").rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def orphan(lake: Lake) -> None:
    lake.database.write("", lake.rows().to_table(limit=2))


def test_compact_merges_fragments_of_all_tables_and_all_holds(lake: Lake) -> None:
    ids = lake.ids()
    assert [fragments(lake, s) for s in ("", "shards", "rejects", "runs")] == [6, 8, 7, 3]
    done = compact(lake.database, Limits())
    assert [fragments(lake, s) for s in ("", "shards", "rejects", "runs")] == [2, 2, 2, 2]
    assert {name: (k.merged, k.versions) for name, k in done.tables.items()} == {
        "laion": (5, 0),
        "laion_shards": (8, 0),
        "laion_rejects": (5, 0),  # and one went with the sweep
        "laion_runs": (2, 0),
    }
    assert done.lines()[0].startswith("laion: merged 5 fragments, has 2 now; removed 0 old versions and 0 files")
    assert lake.ids() == ids
    assert verify(lake.database, lake.model, 23).ok


def test_compact_again_finds_nothing_to_do(lake: Lake) -> None:
    compact(lake.database, Limits())
    before = [lake.companion(s).version for s in ("", "shards", "rejects", "runs")]
    done = compact(lake.database, Limits())
    assert [k.merged for k in done.tables.values()] == [0, 0, 0, 0]
    assert [lake.companion(s).version for s in ("", "shards", "rejects", "runs")] == before


def test_compact_leaves_young_versions(lake: Lake) -> None:
    before = versions(lake)
    compact(lake.database, Limits(timedelta(hours=1)))
    assert set(before) <= set(versions(lake))


def test_compact_of_a_finished_table_frees_what_only_old_versions_had(lake: Lake) -> None:
    before = data_files(lake)
    done = compact(lake.database, AT_ONCE)
    assert len(versions(lake)) == 1
    assert len(data_files(lake)) == 2
    assert len(before & data_files(lake)) == 1  # of the lowest fragment
    assert done.tables["laion"].files == 5 + 1  # and a deletion file
    assert done.tables["laion"].bytes > 0
    found = verify(lake.database, lake.model, 23)
    assert (found.ok, found.warnings) == (True, {})


def test_ledger_goes_on_after_a_compaction(lake: Lake) -> None:
    compact(lake.database, AT_ONCE)
    ledger = Ledger(lake.database, "laion")
    assert (ledger.root, ledger.read_as, len(ledger.current())) == (str(lake.root), READ_AS, 6)
    assert source_roots(lake.database) == {"laion": str(lake.root)}
    lake.write("6.tar", 200, 4, 1)
    lake.run("6.tar")
    assert len(Ledger(lake.database, "laion").current()) == 7
    assert verify(lake.database, lake.model, 5).ok


def test_compact_never_removes_what_the_ledger_has_not_absorbed(lake: Lake) -> None:
    """It absorbs first; a job that was killed after its commit is made good."""
    shutil.copytree(lake.database.path("shards"), lake.folder / "before")
    lake.write("6.tar", 200, 4)
    lake.run("6.tar", recorded=False)
    shutil.rmtree(lake.database.path("shards"))
    shutil.move(lake.folder / "before", lake.database.path("shards"))
    compact(lake.database, AT_ONCE)
    assert "6.tar" in Ledger(lake.database, "laion").current()
    assert verify(lake.database).ok


def test_compact_of_a_table_that_its_ledger_contradicts_touches_nothing(lake: Lake) -> None:
    lake.companion("shards").delete("shard = '1.tar'")
    before = versions(lake)
    with pytest.raises(TableError, match=r"contradicts the table.*verify.py --repair"):
        compact(lake.database, AT_ONCE)
    assert versions(lake) == before


def test_compact_keeps_a_version_with_a_tag(lake: Lake) -> None:
    lake.rows().tags.create("paper", 4)
    rows = lake.rows().checkout_version(4).count_rows()
    compact(lake.database, AT_ONCE)
    assert versions(lake)[:-1] == [4]
    assert lake.rows().checkout_version("paper").to_table().num_rows == rows


def test_compact_of_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no table laion"):
        compact(Lake(tmp_path).database, Limits())
    assert not tmp_path.joinpath("lake").exists()


def test_compact_of_a_table_without_rows_or_runs(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.run(recorded=False)
    for limits in (Limits(), AT_ONCE):
        compact(lake.database, limits)
    assert verify(lake.database).ok


def test_merge_takes_a_few_of_very_many_fragments_at_a_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_MOST", 2)
    ids, before = lake.ids(), fragments(lake)
    merged = merge_fragments(lake.database)
    assert (merged, fragments(lake)) == (before // 2 * 2 - 2, before // 2 + 1)  # in twos, and the lowest stays
    assert lake.ids() == ids
    assert verify(lake.database, lake.model, 40).ok


def test_merge_goes_only_over_the_fragments_that_were_there(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would never end beside a job that writes."""
    commit, number = upkeep.Compaction.commit, iter(range(50, 60))

    class Beside:
        plan = upkeep.Compaction.plan

        @staticmethod
        def commit(*arguments: object) -> object:
            name = f"{next(number)}.tar"
            lake.write(name, 1000, 2)
            lake.run(name)
            return commit(*arguments)

    monkeypatch.setattr(upkeep, "Compaction", Beside)
    monkeypatch.setattr(upkeep, "_ROWS", 6)
    assert merge_fragments(lake.database) == 5
    assert verify(lake.database, lake.model, 40).ok


@pytest.mark.parametrize("limits", [Limits(timedelta(minutes=59)), Limits(timedelta(0), True)])
def test_versions_younger_than_an_hour_go_only_when_nobody_writes(lake: Lake, limits: Limits) -> None:
    with pytest.raises(ConfigError, match=r"allowed is 1h or more.*--nobody-writes"):
        compact(lake.database, limits)


def test_orphans_are_removed_only_when_nothing_was_written_for_an_hour(lake: Lake) -> None:
    orphan(lake)
    age(lake, 0.9 * HOURS)
    with pytest.raises(TableError, match=r"was written 32\d\d s ago, so somebody may be writing"):
        compact(lake.database, Limits(remove_orphans=True))
    age(lake, 1.1 * HOURS)
    assert len(orphans(lake.database)) == 1
    done = compact(lake.database, Limits(remove_orphans=True))
    assert (len(orphans(lake.database)), done.tables["laion"].files) == (0, 1)
    assert verify(lake.database, lake.model, 23).ok


@pytest.mark.parametrize("suffix", ["shards", "rejects", "runs"])
def test_a_young_file_of_a_companion_keeps_orphans_too(lake: Lake, suffix: str) -> None:
    age(lake, 2 * HOURS)
    lake.database.write(suffix, lake.companion(suffix).to_table())
    with pytest.raises(TableError, match="somebody may be writing"):
        compact(lake.database, Limits(remove_orphans=True))


def test_orphans_go_at_once_when_nobody_writes(lake: Lake) -> None:
    for suffix in ("", "shards", "rejects", "runs"):
        lake.database.write(suffix, lake.companion(suffix).to_table())
    compact(lake.database, Limits(timedelta(0), remove_orphans=True, nobody_writes=True))
    assert [len(orphans(lake.database, s)) for s in SUFFIXES] == [0] * len(SUFFIXES)
    assert verify(lake.database, lake.model, 23).ok


def test_orphans_stay_unless_asked_for(lake: Lake) -> None:
    orphan(lake)
    compact(lake.database, AT_ONCE)
    assert len(orphans(lake.database)) == 1


def leave_rejects(lake: Lake, run_id: str, shard: str) -> None:
    """As a run does that is killed before its commit."""
    reject = lake.companion("rejects").to_table(limit=1).to_pylist()[0]
    lost = reject | {"attempt": f"{run_id}-0", "run_id": run_id, "shard": shard}
    lake.database.append("rejects", pa.Table.from_pylist([lost], schema=REJECTS))


def test_sweep_leaves_rejects_of_a_run_that_may_be_running(lake: Lake) -> None:
    leave_rejects(lake, "a" * 12, "ended")
    leave_rejects(lake, "b" * 12, "running")
    lake.record_run("a" * 12, 0, "failed")
    assert sweep(lake.database) == 1 + 1  # and that of the shard that was replaced
    shards = set(lake.companion("rejects").to_table()["shard"].to_pylist())
    assert shards == {"running", *(f"{i}.tar" for i in range(6))}
    assert sweep(lake.database) == 0
    assert sweep(lake.database, timedelta(0)) == 1
    assert verify(lake.database).warnings == {}


def test_compact_beside_a_job_that_commits(lake: Lake) -> None:
    """The job adds and replaces shards while the table is compacted again and again."""
    for i in range(10, 22):
        lake.write(f"{i}.tar", 1000 + 10 * i, 3, 1)
    failed: list[BaseException] = []

    def job() -> None:
        try:
            for i in range(10, 22):
                lake.run(f"{i}.tar")
                if i % 4 == 0:
                    lake.run(f"{i % 5}.tar", replaces=True)
        except BaseException as error:  # noqa: BLE001  # told below
            failed.append(error)

    writer = threading.Thread(target=job)
    writer.start()
    rounds = 0
    while writer.is_alive():
        compact(lake.database, Limits(timedelta(hours=1)))
        rounds += 1
    writer.join()
    assert (failed, rounds > 1) == ([], True)
    compact(lake.database, Limits(timedelta(0), remove_orphans=True, nobody_writes=True))
    found = verify(lake.database, lake.model, 60)
    assert (found.problems, found.warnings) == ({}, {})
    plain = Lake(lake.folder / "plain")
    shutil.copytree(lake.root, lake.folder / "plain" / "laion")
    plain.run(*(f"{i}.tar" for i in [*range(6), *range(10, 22)]))
    columns = ["id", "sha256", "caption", "image_embedding", "itm_score"]
    mine, theirs = (one.rows().to_table(columns=columns).sort_by("id") for one in (lake, plain))
    assert mine.equals(theirs)


def test_search_and_filter_are_right_after_a_compaction_of_an_indexed_table(lake: Lake) -> None:
    lake.rows().create_scalar_index("id", "BTREE")
    lake.rows().create_index("image_embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    lake.write("6.tar", 300, 4)
    lake.run("6.tar")
    compact(lake.database, AT_ONCE)
    lake.write("7.tar", 400, 4)
    lake.run("7.tar")
    rows = lake.rows().to_table().to_pylist()
    for row in rows:
        assert lake.rows().to_table(filter=f"id = '{row['id']}'").num_rows == 1
        search = {"column": "image_embedding", "q": np.array(row["image_embedding"], np.float32), "k": 31, "nprobes": 2}
        near = lake.rows().to_table(nearest=search, columns=["id", "_distance"]).to_pylist()
        same = {r["id"] for r in rows if r["image_embedding"] == row["image_embedding"]}
        assert {n["id"] for n in near if n["_distance"] < 1e-3} == same
    assert verify(lake.database, lake.model, 31).ok


def test_reader_of_an_old_version_goes_on(lake: Lake) -> None:
    old = Rows.open(lake.database)
    assert old is not None
    compact(lake.database, Limits(timedelta(hours=1)))
    assert old.dataset.to_table().num_rows == 23
    assert lance.dataset(lake.database.path(), version=old.version).count_rows() == 23


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("90m", 5400), ("0s", 0), (" 1d ", 86_400)]
)
def test_age_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "1 d", "7days", "9999999d"])
def test_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed is a number with d, h, m or s"):
        parse_age(text)
