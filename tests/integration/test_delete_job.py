"""`delete.py` as a person types it; and beside a job on Ray that is embedding."""

import json
import threading
from pathlib import Path

import pytest

from pipeline.config import EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.database import Database
from pipeline.follow import Follow
from pipeline.gather import Calls, Part
from pipeline.run import Run
from pipeline.upkeep.delete import delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from tests.broken import Plan, breaking_model
from tests.ingest import Lake
from tests.integration.test_running import Quiet
from tests.shards import members, write_tar
from tests.typed import Done, typed


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    for i in range(2):
        lake.write(f"{i}.tar", 10 * i, 5, 2)
    lake.run("0.tar", "1.tar")
    return lake


def job(lake: Lake, *arguments: str) -> Done:
    return typed("delete", "--db", lake.database.uri, *arguments)


def test_delete_by_files_inline_values_and_a_condition_and_purge(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("# by mail, 3 May\nhttp://x/3\nhttp://x/5\n")
    named = ("--urls", str(tmp_path / "urls.txt"), "--url", "http://x/11", "--where", "key = '00000'", "--why", "mail")
    dry = job(lake, *named, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "would take down 3 rows and 1 rejects, of 2 shards\nnothing was written\n" in dry.stdout
    done = job(lake, *named)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "asked for 1 id, 3 url (4 not taken down before)\n"
        "took down 3 rows and 1 rejects, of 2 slices\n"
        "proof: 0 rows of the latest version have one of these\n"
    )
    again = job(lake, *named, "--purge", "--json")
    answer = json.loads(again.stdout)
    assert (again.returncode, answer["rows_removed"], answer["gone"]) == (0, 0, True)
    assert (answer["purged"]["fragments"], answer["purged"]["files_left"]["laion.lance"]) == (3, [])
    assert verify(lake.database).ok


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "nothing to take down: name it with --where"),
        (("--id", "short"), 2, "--id: not an id: allowed are 32 digits 0-9 and a-f; number 1: 'short'"),
        (("--where", "no_such > 1"), 2, "there is no column no_such"),
        (("--ids", "no-such-file"), 1, "no-such-file cannot be read: gone, or never there"),
        (("--table", "other", "--url", "http://x/1"), 1, "there is no table other in "),
    ],
)
def test_delete_says_in_one_line_what_is_wrong(lake: Lake, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = job(lake, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@pytest.mark.usefixtures("ray_session")
def test_takedown_while_a_job_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers know nothing of it; the blocks are on their way when it comes."""
    (tmp_path / "shards").mkdir()
    for i in range(6):
        write_tar(tmp_path / "shards" / f"{i:05d}.tar", members(20, start=i * 20))
    model = breaking_model(Plan(tmp_path / "notes", seconds=0.2))
    database = Database(str(tmp_path / "lake"), "laion")

    def run(*names: str) -> Run:
        inputs = tuple(str(tmp_path / "shards" / name) for name in names)
        write = WriteConfig(database.uri, source_root=str(tmp_path / "shards"), commit_seconds=0.0)
        return Run(RunConfig(ReadConfig(inputs), write, EmbedConfig(batch_size=8, actors=1)), model, Quiet())

    run("00000.tar").start()
    taken = {1, 25, 63, 119}
    inspected, threads = Follow._inspected, []

    def take_down_once(follow: Follow, block: object, parts: list[Part], calls: Calls) -> None:
        if not threads:
            order = Order(urls=tuple(f"http://x/{i}" for i in taken))
            threads.append(threading.Thread(target=delete, args=(database, order)))
            threads[0].start()
            threads[0].join(60)
        inspected(follow, block, parts, calls)

    monkeypatch.setattr(Follow, "_inspected", take_down_once)
    summary = run("*.tar").start()
    assert (summary.outcome, summary.rows, summary.taken_down) == ("done", 97, 3)
    dataset = database.open()
    assert dataset is not None
    assert sorted(dataset.to_table(columns=["key"])["key"].to_pylist()) == [
        f"{i:05d}" for i in range(120) if i not in taken
    ]
    found = verify(database)
    assert found.problems == {}, found.lines()
    write_tar(tmp_path / "shards" / "copy.tar", members(3, start=24))
    later = run("*.tar").start()  # its readers know, and leave it out
    assert (later.rows, later.taken_down, later.pairs_per_call) == (2, 1, 2.0)
    assert verify(database).ok
