"""After a purge no file of any version holds what was taken down; tags, indexes, the ledger and jobs go on."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lance.file import LanceFileReader

import pipeline.upkeep.accounts
from pipeline.ledger import Ledger
from pipeline.upkeep.compact import Limits, compact
from pipeline.upkeep.delete import Deleted, Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.ingest import Lake, two_runs
from tests.moulds import Moulds
from tests.tables.test_delete import of, sha256, url

PURGE = Extent(purge=True)
ALONE = Extent(purge=True, nobody_writes=True)


@pytest.fixture
def lake(moulds: Moulds, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return moulds.cast(two_runs)


def strings(lake: Lake, suffix: str = "") -> set[str]:
    """All text in all data and index files, deleted rows too."""
    found: set[str] = set()
    for path in Path(lake.database.path(suffix)).rglob("*"):
        if path.is_file() and {"data", "_indices"} & set(path.parts):
            table = LanceFileReader(str(path)).read_all().to_table()
            for field in table.schema:
                if pa.types.is_string(field.type):
                    found |= set(table[field.name].to_pylist())
    return found


def versions(lake: Lake, suffix: str = "") -> list[int]:
    return [ref["version"] for ref in lake.companion(suffix).version_refs()]


def holds(lake: Lake) -> None:
    found = verify(lake.database)
    assert found.problems == {}, found.lines()


def purged(lake: Lake, extent: Extent = PURGE, **named: tuple[str, ...]) -> Deleted:
    done = delete(lake.database, Order(**named), extent)  # type: ignore[arg-type]
    assert done.purged is not None
    return done


def test_takedown_alone_leaves_the_bytes_and_purge_removes_them(lake: Lake) -> None:
    taken = {of(3), of(11), url(3), url(11), sha256(lake, 3), sha256(lake, 11)}
    delete(lake.database, Order(urls=(url(3), url(11))))
    assert taken <= strings(lake)
    done = purged(lake)
    assert done.gone
    assert taken.isdisjoint(strings(lake))
    assert done.purged is not None
    assert (done.purged.fragments, done.purged.versions > 0) == (2, True)
    assert len(lake.ids()) == 13
    holds(lake)


def test_no_old_version_shows_what_was_purged(lake: Lake) -> None:
    purged(lake, ids=(of(0), of(21)))
    for version in versions(lake):
        ids = lake.rows().checkout_version(version).to_table(columns=["id"])["id"].to_pylist()
        assert {of(0), of(21)}.isdisjoint(ids)


def test_versions_that_never_held_it_stay(lake: Lake) -> None:
    first = next(v for v in versions(lake) if lake.rows().checkout_version(v).count_rows() == 5)
    purged(lake, urls=(url(22),))
    assert first in versions(lake)
    assert lake.rows().checkout_version(first).count_rows() == 5


def test_tags_move_from_a_version_that_holds_it_and_stay_on_one_that_does_not(lake: Lake) -> None:
    first = next(v for v in versions(lake) if lake.rows().checkout_version(v).count_rows() == 5)
    lake.rows().tags.create("old", first)
    lake.rows().tags.create("live", lake.rows().version)
    done = purged(lake, urls=(url(22),))
    tags = {name: tag["version"] for name, tag in lake.rows().tags.list().items()}
    assert tags["old"] == first
    assert tags["live"] > first
    assert done.purged is not None
    assert done.purged.tags == {"live": tags["live"]}
    assert lake.rows().checkout_version("live").count_rows(f"url = '{url(22)}'") == 0
    assert lake.rows().checkout_version("live").count_rows() == 14
    holds(lake)


def test_rejects_of_taken_down_pairs_are_purged_too(lake: Lake) -> None:
    assert {url(5), url(16)} <= strings(lake, "rejects")
    done = purged(lake, urls=(url(5),), ids=(of(16),))
    assert done.removed.rejects == 2
    assert {url(5), url(16)}.isdisjoint(strings(lake, "rejects"))
    assert {url(6), url(15)} <= strings(lake, "rejects")
    holds(lake)


def test_indexes_name_nothing_that_was_purged_and_answer_as_before(lake: Lake) -> None:
    table = lake.rows()
    for column, kind in (
        ("id", "BTREE"),
        ("url", "BITMAP"),
        ("sha256", "BITMAP"),
        ("caption", "INVERTED"),
        ("tags", "LABEL_LIST"),
    ):
        lake.rows().create_scalar_index(column, kind)
    lake.rows().create_index("image_embedding", "IVF_FLAT", num_partitions=2, metric="cosine")
    taken = {of(3), url(3), sha256(lake, 3)}
    kept = table.to_table(columns=["id", "sha256"], filter=f"url = '{url(4)}'").to_pylist()[0]
    done = purged(lake, ids=(of(3),))
    assert done.purged is not None
    assert sorted(done.purged.indexes) == [
        "sha256_idx",
        "tags_idx",
        "url_idx",
    ]  # a bitmap keeps the keys of rows that went
    assert taken.isdisjoint(strings(lake))
    table = lake.rows()
    assert {index["name"] for index in table.list_indices()} == {
        *(f"{c}_idx" for c in ("id", "url", "sha256", "caption", "tags", "image_embedding"))
    }
    for column, value in (("id", kept["id"]), ("url", url(4)), ("sha256", kept["sha256"])):
        assert table.to_table(filter=f"{column} = '{value}'")["id"].to_pylist() == [kept["id"]]
    assert table.to_table(full_text_query="caption 3", columns=["id"]).num_rows == 14
    nearest = {"column": "image_embedding", "q": np.eye(4, dtype=np.float32)[0], "k": 20, "nprobes": 2}
    assert of(3) not in table.to_table(nearest=nearest, columns=["id", "_distance"])["id"].to_pylist()
    holds(lake)


def test_ledger_stands_on_what_is_left_and_the_next_run_goes_on(lake: Lake) -> None:
    purged(lake, urls=(url(3),))
    newest = lake.companion("shards").to_table(columns=["version"])["version"].to_pylist()
    assert max(newest) in versions(lake)  # what the ledger stands at stays
    shutil.rmtree(lake.folder / "gone", ignore_errors=True)
    lake.write("3.tar", 30, 4)
    lake.run("3.tar")
    assert sum(r.embedded for r in Ledger(lake.database, "laion").current().values()) == 18
    holds(lake)
    compact(lake.database, Limits(timedelta(0), nobody_writes=True))
    holds(lake)


def test_purge_never_removes_what_the_ledger_has_not_absorbed(lake: Lake) -> None:
    shutil.rmtree(lake.database.path("shards"))  # the log alone knows
    purged(lake, urls=(url(3),))
    holds(lake)


def orphaned(lake: Lake) -> Path:
    """A killed writer's file, with the row of picture 3 in it."""
    before = set(Path(lake.database.path(), "data").iterdir())
    lake.database.write("", lake.rows().to_table(filter=f"url = '{url(3)}'"))
    (path,) = set(Path(lake.database.path(), "data").iterdir()) - before
    return path


def test_files_of_a_killed_writer_are_named_and_go_when_nobody_writes(lake: Lake) -> None:
    path = orphaned(lake)
    done = purged(lake, urls=(url(3),))
    assert (done.gone, path.exists()) == (False, True)
    assert any("not gone: laion.lance: 1 of its" in line and "--nobody-writes" in line for line in done.lines())
    done = purged(lake, ALONE)
    assert (done.gone, path.exists()) == (True, False)
    holds(lake)


def test_purge_is_proven_by_what_the_files_hold(lake: Lake) -> None:
    done = purged(lake, urls=(url(3),))
    assert done.lines()[-2:] == [
        f"proof: laion.lance: 0 of {len(files(lake))} data and index files, so 0 of {len(versions(lake))} versions "
        f"({said(versions(lake))}), hold any of them",
        "proof: laion_rejects.lance: 0 of 3 data and index files, so 0 of 4 versions (1 to 4), hold any of them",
    ]


def said(numbers: list[int]) -> str:
    from pipeline.versions import ranges

    return ranges(numbers)


def files(lake: Lake) -> list[Path]:
    return list(Path(lake.database.path(), "data").iterdir())


def test_purge_beside_a_job_lets_it_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its base version is gone, and so is what it planned on: it goes on from the latest."""
    import pipeline.committer

    lake.write("3.tar", 30, 4, 1)
    commit, once = pipeline.committer.commit, [True]

    def purge_first(*args: object) -> object:
        if once.pop():
            once.append(False)
            purged(lake, urls=(url(3), url(31)))
        else:
            once.append(False)
        return commit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.committer, "commit", purge_first)
    lake.run("3.tar")
    assert lake.rows().count_rows(f"url IN ('{url(3)}', '{url(31)}')") == 0
    assert len(lake.ids()) == 17
    holds(lake)
    monkeypatch.undo()
    assert purged(lake, ALONE).gone


def test_purge_of_nothing_does_no_harm(lake: Lake) -> None:
    before = lake.ids()
    assert purged(lake).lines()[-1] == "purged: 0 fragments written anew, 0 versions of 0 bytes removed"
    assert lake.ids() == before
    holds(lake)
