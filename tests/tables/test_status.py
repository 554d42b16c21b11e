"""How a lake stands, as a table and as JSON."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

import pipeline.upkeep.accounts
from jobs import status as job
from jobs.status import Options
from pipeline.errors import TableError
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.status import Status, read_status
from pipeline.ticks.book import Outcome, begin, end, plan
from pipeline.ticks.cron import Cron
from tests.tables.test_ticks import fails
from tests.ticking import Ticking


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest's workers have it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ticking:
    """Two ticks, an index, a later shard that nobody has looked at, a quarantined one, and a tick that failed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
        ticking = Ticking(tmp_path_factory.mktemp("made"))
        lake = ticking.lake
        plan(lake.database, Cron("0 */6 * * *"))
        lake.write("0.tar", 0, 300, 2)
        ticking.tick("0.tar")
        index(lake.database, Request(kind="ivf_flat", partitions=2, queries=5))
        end(lake.database, begin(lake.database), Outcome.DONE, "", {"live": 3})
        lake.write("1.tar", 1000, 6, 1)
        lake.run("1.tar")
        lake.write("bad.tar", 2000, 1)
        for run in range(3):
            fails(lake, "bad.tar", f"run{run}", "bad.tar: it is [bold]cut[/] short\x1b[31m")
        end(lake.database, begin(lake.database), Outcome.FAILED, "embed: exit code 1: error: [red]no[/]", {"live": 3})
    return ticking


@pytest.fixture(scope="module")
def status(made: Ticking) -> Status:
    return read_status(made.lake.database)


def test_status_tells_rows_versions_and_what_live_shows(made: Ticking, status: Status) -> None:
    lake = made.lake
    assert (status.rows, status.version, status.live_rows) == (306, lake.rows().version, 300)
    assert status.versions == [v["version"] for v in lake.rows().versions()]
    assert status.tags == {"live": made.lake.rows().tags.list()["live"]["version"]}
    assert status.tags["live"] < status.version


def test_status_tells_the_last_ticks_and_the_next_by_the_cron_line(status: Status) -> None:
    assert [tick["outcome"] for tick in status.ticks] == ["failed", "done", "done"]
    assert status.ticks[0]["why"] == "embed: exit code 1: error: [red]no[/]"
    assert status.cron == "0 */6 * * * UTC"
    assert status.next is not None
    assert (status.next.hour % 6, status.next.minute) == (0, 0)
    assert timedelta(0) < status.next - status.ticks[0]["started"] <= timedelta(hours=6)


def test_status_tells_runs_rejects_and_quarantined_shards(made: Ticking, status: Status) -> None:
    assert [run["rows"] for run in status.runs] == [6, 300]
    assert status.rejects == {"truncated": 3}
    assert status.quarantined == {"laion bad.tar": "bad.tar: it is [bold]cut[/] short\x1b[31m"}


def test_status_does_not_count_rejects_of_attempts_that_do_not_count(made: Ticking, tmp_path: Path) -> None:
    ticking = Ticking(tmp_path)
    ticking.lake.write("0.tar", 0, 2, 3)
    ticking.lake.run("0.tar")
    ticking.lake.write("0.tar", 0, 4, 1)
    ticking.lake.run("0.tar", replaces=True)
    assert read_status(ticking.lake.database).rejects == {"truncated": 1}


def test_status_tells_of_each_index_what_is_not_in_it_yet_and_its_recall(status: Status) -> None:
    first, *others = status.indexes
    assert (first.column, first.kind, first.indexed, first.left) == ("image_embedding", "ivf_flat", 300, 6)
    assert set(first.recall) >= {"pictures", "captions"}
    assert all(0.95 <= value <= 1 for value in first.recall.values())
    assert [(i.column, i.left, i.recall) for i in others] == [
        (name, 6, {}) for name in ("caption", "id", "itc_score", "itm_score", "sha256", "shard")
    ]


def test_status_is_shown_as_tables_in_which_nothing_is_taken_for_markup(
    made: Ticking, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(Options(db=made.lake.database.uri)) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].endswith(f"laion.lance: 306 rows at version {made.lake.rows().version}")
    assert "live is version " in lines[1]
    assert lines[1].endswith(", 300 rows")
    assert lines[2].startswith("last tick ")
    assert lines[2].endswith(" UTC, failed")
    assert lines[3].endswith(":00:00 UTC, by 0 */6 * * * UTC")
    assert "error: [red]no[/]" in shown
    assert "it is [bold]cut[/] short\\x1b[31m" in shown
    assert re.search(r"image_embedding +ivf_flat +300 +6 +pictures [01]\.\d{3}, captions [01]\.\d{3}", shown)


def test_status_as_json_is_one_object_with_all_of_it(
    made: Ticking, status: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(Options(db=made.lake.database.uri, json=True)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(status.to_dict(), default=str)) | {"next": said["next"]}


def test_status_of_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"^there is no table laion in .*: embed shards into it first$"):
        read_status(Ticking(tmp_path).lake.database)


def test_status_before_the_first_row_shows_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = Ticking(tmp_path).lake.database
    plan(database, Cron("0 3 * * *"))
    end(database, begin(database), Outcome.FAILED, "embed: exit code 1: error: no shard", {})
    assert job.main(Options(db=database.uri)) == 0
    shown = capsys.readouterr().out
    assert "0 rows at version 0" in shown
    assert "none; no tag live" in shown
    assert "embed: exit code 1: error: no shard" in shown
