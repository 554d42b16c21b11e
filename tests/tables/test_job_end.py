"""How a job's process ends: with its own code, whatever is still at work in it."""

import os
import subprocess
import sys

AT_WORK = """
import asyncio
import atexit
import sys
import time
from dataclasses import dataclass
from datafusion import SessionContext
from jobs.outcome import finish


class Slow:  # to take apart
    def __del__(self, sleep=time.sleep) -> None:
        sleep(2)


class Loop(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *arguments, **options):
        super().call_soon_threadsafe(*arguments, **options)
        time.sleep(1)  # DataFusion's thread, which called this


async def ask():
    async for batch in SessionContext().sql("SELECT 3").execute_stream():
        return batch.to_pyarrow()[0][0].as_py()


@dataclass(frozen=True)
class Options:
    pass


def main(options: Options) -> int:
    sys.slow = Slow()
    atexit.register(print, "cleaned up")
    print("answer")
    return Loop().run_until_complete(ask())


finish(Options, main, "")
"""


def test_job_ends_with_its_own_code_while_a_native_library_is_at_work() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_WORK], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "answer\ncleaned up\n", "")


def test_job_whose_output_nobody_reads_says_so_and_does_not_end_with_0() -> None:
    piped = '"$@" | true; exit "${PIPESTATUS[0]}"'
    ended = subprocess.run(
        ["bash", "-c", piped, "-", sys.executable, "-c", AT_WORK.replace("SELECT 3", "SELECT 0")],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (1, "error: standard output cannot be written: Broken pipe\n")
