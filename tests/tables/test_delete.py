"""What is taken down is gone from rows and rejects, stays away, and the books agree slice by slice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lance
import pytest

import pipeline.upkeep.accounts
import pipeline.upkeep.takedown
from pipeline.database import Database
from pipeline.errors import ConfigError, LedgerError, TableError
from pipeline.samples import row_id
from pipeline.upkeep.delete import Deleted, Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.ingest import Lake
from tests.moulds import Moulds
from tests.shards import members, write_tar

Counts = tuple[int, int, int, int]


def two_shards(folder: Path) -> Lake:
    """By one run: 5 rows and 2 rejects each, of pictures 0 to 6 and 10 to 16."""
    lake = Lake(folder)
    for i in range(2):
        lake.write(f"{i}.tar", 10 * i, 5, 2)
    lake.run("0.tar", "1.tar")
    return lake


@pytest.fixture
def lake(moulds: Moulds, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return moulds.cast(two_shards)


def url(number: int) -> str:
    return f"http://x/{number}"


def of(number: int, dataset: str = "laion") -> str:
    """The id of a pair."""
    return row_id(dataset, f"{number // 10}.tar", f"{number:05d}", 0)


def urls(lake: Lake, suffix: str = "") -> set[int]:
    there = lake.companion(suffix).to_table(columns=["url"])["url"].to_pylist()
    return {int(u.rpartition("/")[2]) for u in there}


def sha256(lake: Lake, number: int) -> str:
    found = lake.rows().to_table(columns=["sha256"], filter=f"url = '{url(number)}'")["sha256"]
    value: str = found[0].as_py()
    return value


def counts(lake: Lake) -> dict[str, Counts]:
    """Of each shard: read, embedded, rejected, taken down, as the ledger has them in the end."""
    rows = sorted(lake.companion("shards").to_table().to_pylist(), key=lambda r: r["version"])
    names = ("read", "embedded", "rejected", "taken_down")
    return {r["shard"]: tuple(r[n] for n in names) for r in rows if r["shard"]}  # type: ignore[misc]


def take(lake: Lake, **named: Any) -> Deleted:
    return delete(lake.database, Order(**named))


def holds(lake: Lake) -> bool:
    found = verify(lake.database)
    assert found.problems == {}, found.lines()
    return found.ok


GONE: Mapping[str, Mapping[str, Any]] = {
    "condition": {"where": "url IN ('http://x/3', 'http://x/11')"},
    "ids": {"ids": (of(3), of(11))},
    "urls": {"urls": (url(3), url(11))},
    "mixed": {"ids": (of(3).upper(),), "urls": (url(11), url(3)), "where": "key = '00003'"},
}


@pytest.mark.parametrize("how", GONE)
def test_taken_down_rows_are_gone_and_the_books_agree_slice_by_slice(lake: Lake, how: str) -> None:
    done = take(lake, **GONE[how], why="asked to")
    assert (done.removed.rows, done.removed.rejects, done.left, done.gone) == (2, 0, 0, True)
    assert urls(lake) == {0, 1, 2, 4, 10, 12, 13, 14}
    assert counts(lake) == {"0.tar": (7, 4, 2, 1), "1.tar": (7, 4, 2, 1)}
    assert holds(lake)
    assert set(lake.companion("takedowns").to_table()["why"].to_pylist()) == {"asked to"}


def test_a_sha256_takes_down_every_pair_of_that_picture_in_any_dataset(lake: Lake) -> None:
    other = Lake(lake.folder, dataset="other")
    write_tar(other.root / "copy.tar", members(3, 2))
    other.run("copy.tar")
    done = take(lake, sha256=(sha256(lake, 3),))
    assert (done.removed.rows, done.removed.slices) == (2, {("laion", "0.tar"), ("other", "copy.tar")})
    assert counts(lake) == {"0.tar": (7, 4, 2, 1), "1.tar": (7, 5, 2, 0), "copy.tar": (3, 2, 0, 1)}
    assert holds(lake)


def test_an_id_takes_down_that_pair_alone(lake: Lake) -> None:
    other = Lake(lake.folder, dataset="other")
    write_tar(other.root / "0.tar", members(3, 2))
    other.run("0.tar")
    assert take(lake, ids=(of(3),)).removed.rows == 1
    assert other.rows().count_rows(f"url = '{url(3)}'") == 1


def test_rejects_of_taken_down_pairs_go_too(lake: Lake) -> None:
    done = take(lake, urls=(url(5),), ids=(of(16),))
    assert (done.removed.rows, done.removed.rejects) == (0, 2)
    assert urls(lake, "rejects") == {6, 15}
    assert counts(lake) == {"0.tar": (7, 5, 1, 1), "1.tar": (7, 5, 1, 1)}
    assert holds(lake)


def test_rejects_of_a_sample_whose_picture_is_taken_down_go_too(lake: Lake) -> None:
    fields = {"caption": ["good", ""], "url": "http://x/50"}
    picture = members(1, 50)[0][1]
    write_tar(lake.root / "2.tar", [("a.jpg", picture), ("a.json", json.dumps(fields).encode())])
    lake.run("2.tar")
    assert counts(lake)["2.tar"] == (2, 1, 1, 0)
    done = take(lake, sha256=(sha256(lake, 50),))
    assert (done.removed.rows, done.removed.rejects, counts(lake)["2.tar"]) == (1, 1, (2, 0, 0, 2))
    assert holds(lake)


def test_the_same_again_changes_nothing_and_is_written_down_once(lake: Lake) -> None:
    assert take(lake, urls=(url(3), url(5))).removed.new == 2
    before = counts(lake)
    again = take(lake, urls=(url(3), url(5)))
    assert (again.removed.new, again.removed.rows, again.removed.rejects, again.gone) == (0, 0, 0, True)
    assert (counts(lake), lake.companion("takedowns").count_rows()) == (before, 2)
    assert holds(lake)


def test_a_condition_takes_down_what_meets_it_now_and_nothing_later(lake: Lake) -> None:
    assert take(lake, where="key < '00012'").removed.rows == 7
    lake.write("2.tar", 20, 3)
    write_tar(lake.root / "2.tar", members(3, 0))
    lake.run("2.tar")
    assert urls(lake) == {12, 13, 14, 0, 1, 2}
    assert holds(lake)


def test_all_rows_can_go_and_others_come(lake: Lake) -> None:
    assert take(lake, where="true").removed.rows == 10
    assert (lake.ids(), counts(lake)) == ([], {"0.tar": (7, 0, 2, 5), "1.tar": (7, 0, 2, 5)})
    assert take(lake, where="true").removed.commits == 0  # nothing meets it any more
    take(lake, urls=(url(20),))
    lake.write("2.tar", 20, 3)
    lake.run("2.tar")
    assert urls(lake) == {21, 22}
    assert holds(lake)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_later_run_does_not_bring_a_pair_back(lake: Lake, replaces: bool) -> None:
    """Neither a copy in a new shard, nor the shard itself when it changed."""
    take(lake, urls=(url(3), url(5)))
    name = "0.tar" if replaces else "copy.tar"
    write_tar(lake.root / name, members(9, 0))
    lake.run(name, replaces=replaces)
    assert {3, 5}.isdisjoint(urls(lake) if replaces else urls_in(lake, "copy.tar"))
    assert counts(lake)[name] == (9, 7, 0, 2)
    assert holds(lake)


def urls_in(lake: Lake, shard: str) -> set[int]:
    rows = lake.rows().to_table(columns=["url"], filter=f"shard = '{shard}'")["url"].to_pylist()
    return {int(u.rpartition("/")[2]) for u in rows}


def test_a_picture_that_was_taken_down_is_not_stored_as_a_reject_either(lake: Lake) -> None:
    take(lake, sha256=(sha256(lake, 3),))
    picture = members(1, 3)[0][1]
    broken = [("a.jpg", picture), ("b.jpg", picture), ("b.txt", b"fine")]  # a has no caption
    write_tar(lake.root / "2.tar", broken)
    lake.run("2.tar")
    assert counts(lake)["2.tar"] == (2, 0, 0, 2)
    assert urls(lake, "rejects") == {5, 6, 15, 16}
    assert holds(lake)


def test_dry_run_counts_and_writes_nothing(lake: Lake) -> None:
    before = {suffix: lake.companion(suffix).version for suffix in ("", "shards", "rejects", "runs")}
    order = Order(urls=(url(3), url(5), url(99)), where="key = '00010'")
    done = delete(lake.database, order, Extent(dry_run=True, purge=True))
    assert done.lines() == [
        "asked for 1 id, 3 url (4 not taken down before)",
        "would take down 2 rows and 1 rejects, of 2 shards",
        "nothing was written",
    ]
    assert {suffix: lake.companion(suffix).version for suffix in before} == before
    assert lake.database.open("takedowns") is None


def test_values_are_bound_and_not_pasted(lake: Lake) -> None:
    evil = "http://x/'OR'1'='1"
    assert take(lake, urls=(evil, "http://x/3');DROP--")).removed.rows == 0
    assert len(lake.ids()) == 10
    write_tar(lake.root / "2.tar", [*members(1, 20)[:2], ("00020.json", json.dumps({"url": evil}).encode())])
    lake.run("2.tar")
    assert counts(lake)["2.tar"] == (1, 0, 0, 1)


def test_thousands_of_values_are_taken_down_in_one_go(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.upkeep.takedown, "_FILTERED", 100)
    many = tuple(url(n) for n in range(2, 30_000))
    done = take(lake, urls=many, ids=tuple(of(n) for n in range(2)))
    assert (done.removed.rows, done.removed.rejects, done.removed.new) == (10, 4, 30_000)
    assert holds(lake)


def test_many_slices_are_done_in_several_commits(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.upkeep.takedown, "_SLICES", 1)
    done = take(lake, urls=tuple(url(n) for n in (0, 1, 5, 10, 15)))
    assert (done.removed.commits, done.removed.rows, done.removed.rejects) == (2, 3, 2)
    assert counts(lake) == {"0.tar": (7, 3, 1, 3), "1.tar": (7, 4, 1, 2)}
    assert holds(lake)


def test_work_is_recorded_without_what_was_taken_down(lake: Lake) -> None:
    take(lake, urls=(url(3),), why="a letter")
    (run,) = lake.companion("runs").to_table(filter="run_id LIKE 'delete-%'").to_pylist()
    assert (run["outcome"], json.loads(run["configuration"])["why"]) == ("done", "a letter")
    assert json.loads(run["summary"])["rows_removed"] == 1
    assert url(3) not in json.dumps(run, default=str)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({}, "nothing to take down"),
        ({"where": "no_such = 1"}, "there is no column no_such; the columns are id, dataset, shard"),
        ({"where": "true; DROP TABLE laion"}, "--where"),
        ({"ids": ("xyz",)}, "--id: not an id: allowed are 32 digits 0-9 and a-f; number 1: 'xyz'"),
    ],
)
def test_what_is_not_valid_is_refused_and_nothing_is_written(lake: Lake, named: Any, said: str) -> None:
    version = lake.rows().version
    with pytest.raises(ConfigError) as told:
        take(lake, **named)
    assert said in str(told.value)
    assert (lake.rows().version, lake.database.open("takedowns")) == (version, None)


def test_takedown_where_there_is_no_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no table laion in "):
        take(Lake(tmp_path), urls=(url(1),))


def test_books_that_contradict_the_table_are_refused_until_they_are_repaired(lake: Lake) -> None:
    lake.companion("rejects").delete("position = 6 AND shard = '0.tar'")
    with pytest.raises(LedgerError, match=r"laion 0.tar: there are 1 rejects, the ledger counts 2: run verify"):
        take(lake, urls=(url(5), url(3)))
    found = verify(lake.database, mend=True)
    assert found.problems == {}
    assert {3, 5}.isdisjoint(urls(lake) | urls(lake, "rejects"))


class Killed(BaseException):
    """As `kill -9`, at one place."""


def kill(lake: Lake, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.upkeep.takedown, place, die)
        with pytest.raises(Killed):
            take(lake, urls=(url(3), url(5)))


@pytest.mark.parametrize("place", ["Ledger", "strike"])
def test_a_takedown_that_was_killed_is_found_and_the_same_command_ends_it(
    lake: Lake, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the writing down and the commit, and between the commit and the rejects."""
    kill(lake, place, monkeypatch)
    found = verify(lake.database)
    assert found.problems["taken down"].count == (2 if place == "Ledger" else 1)
    assert "the same command again, or verify.py --repair" in "\n".join(found.lines())
    take(lake, urls=(url(3), url(5)))
    assert counts(lake)["0.tar"] == (7, 4, 1, 2)
    assert {3, 5}.isdisjoint(urls(lake) | urls(lake, "rejects"))
    assert holds(lake)


@pytest.mark.parametrize("place", ["Ledger", "strike"])
def test_repair_ends_a_takedown_that_was_killed(lake: Lake, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(lake, place, monkeypatch)
    mended = verify(lake.database, mend=True)
    assert mended.problems == {}
    assert f"{int(place == 'Ledger')} rows and 1 rejects that were taken down were removed" in mended.mended
    assert counts(lake)["0.tar"] == (7, 4, 1, 2)
    assert holds(lake)


def test_repair_removes_what_came_back_past_the_takedowns(lake: Lake) -> None:
    row = lake.rows().to_table(filter=f"url = '{url(3)}'")
    take(lake, urls=(url(3),))
    lance.write_dataset(row, lake.database.path(), mode="append")
    found = verify(lake.database)
    assert found.problems.keys() == {"rows", "taken down"}
    assert verify(lake.database, mend=True).problems == {}
    assert 3 not in urls(lake)


def test_a_commit_whose_reply_was_lost_counts_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    swap, lost = Database.swap, [True]

    def lose(database: Database, suffix: str, *args: Any, **kwargs: Any) -> Any:
        done = swap(database, suffix, *args, **kwargs)
        if suffix == "" and lost:
            lost.clear()
            raise TableError("the reply was lost")
        return done

    monkeypatch.setattr(Database, "swap", lose)
    done = take(lake, urls=(url(3), url(5)))
    assert (done.removed.rows, done.removed.rejects, counts(lake)["0.tar"]) == (1, 1, (7, 4, 1, 2))
    assert holds(lake)
