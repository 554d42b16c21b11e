"""Commands as processes: followed, stopped in order, and never left behind. The options of one that embeds."""

import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from jobs.options import EmbeddingCommand
from pipeline.errors import ConfigError
from pipeline.ticks.command import Ended, Process
from tests.conftest import REPOSITORY

# Says that it is ready, and at SIGTERM finishes what it has in hand.
ORDERLY = """
import signal, sys, time
def stop(*_):
    time.sleep(0.2); print("finished", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def python(code: str) -> Process:
    return Process([sys.executable, "-c", code])


def test_process_is_followed_line_by_line_on_both_streams_and_tells_its_code_and_last_words() -> None:
    heard: list[str] = []
    code = "import sys\nfor i in range(30): print(i, flush=True)\nprint('error: no', file=sys.stderr); sys.exit(1)"
    ended = python(code).follow(heard.append)
    assert heard == [*map(str, range(30)), "error: no"]
    assert (ended.code, len(ended.last), ended.why) == (1, 20, "exit code 1: error: no")


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ((), "exit code 1"),
        (("took 3s", "failed: a.tar: cut", "a.tar is at version 3", ""), "exit code 1: failed: a.tar: cut"),
        (("Traceback", "KeyError: 'x'"), "exit code 1: KeyError: 'x'"),
    ],
)
def test_ended_tells_why_by_the_line_that_says_so(last: tuple[str, ...], why: str) -> None:
    assert Ended(1, last).why == why


def test_process_that_is_stopped_ends_in_order() -> None:
    process, heard = python(ORDERLY), []

    def hear(line: str) -> None:
        heard.append(line)
        if line == "ready":
            process.stop()

    assert process.follow(hear).code == 143
    assert heard == ["ready", "finished"]


def test_process_is_stopped_in_order_when_whoever_follows_it_is_interrupted() -> None:
    process = python(ORDERLY)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.follow(interrupt)
    assert process._process.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_process_is_asked_to_end_when_whoever_started_it_is_killed() -> None:
    code = f"from pipeline.ticks.command import Process\nProcess(['{sys.executable}', '-c', {ORDERLY!r}]).follow(print)"
    with subprocess.Popen([sys.executable, "-uc", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        descriptor = os.pidfd_open(child.pid)
        os.kill(parent.pid, signal.SIGKILL)
    ended, _, _ = select.select([descriptor], [], [], 10)  # before whoever inherited it has noticed
    os.close(descriptor)
    assert ended


def test_process_ends_by_its_own_although_it_was_asked_to_end_before() -> None:
    process = python("print('done')")
    assert process.follow(lambda line: None).code == 0
    process.stop()


def test_program_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot run 'pyhton': there is no such program: name one after --"):
        Process(["pyhton", "jobs/embed_laion.py"])


@pytest.mark.parametrize("words", [("--db", "s3://b/lake", "--table", "birds"), ("--db=s3://b/lake", "--table=birds")])
def test_embedding_command_tells_its_table_however_the_option_is_written(words: tuple[str, ...]) -> None:
    command = EmbeddingCommand(("python", "jobs/embed_laion.py", *words))
    database = command.database()
    assert (database.uri, database.table, command.option("--model")) == ("s3://b/lake", "birds", None)
    assert EmbeddingCommand(("x", "--db", "lake")).database().table == "laion"


def test_embedding_command_tells_each_of_its_values_once() -> None:
    words = (
        "python",
        "x.py",
        "--input",
        "a=b.tar",
        "--input=c",
        "--no-report",
        "--source_root",
        "/r",
        "--",
        "d",
        "--db",
    )
    assert list(EmbeddingCommand(words).values()) == [
        ("", "python"),
        ("", "x.py"),
        ("--input", "a=b.tar"),
        ("--input", "c"),
        ("--no-report", ""),
        ("--source-root", "/r"),
        ("--", "d"),
        ("--db", ""),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no --db: name an embedding command after --, such as -- python jobs/embed_laion.py"),
        (("python", "x.py", "--db"), "no --db: name an embedding command"),
        (("python", "x.py", "--db", "lake", "--table", "a b"), "--table 'a b' is not valid"),
    ],
)
def test_embedding_command_without_a_table_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EmbeddingCommand(words).database()
