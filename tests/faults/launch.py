"""Runs jobs as a person does, each a process of its own, with faults placed inside them by `hook/`."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

HOOK = Path(__file__).resolve().parent / "hook"
ALWAYS = [
    {"at": "bridgelake.lake:as_model", "do": "replace", "with": "tests.faults.model:as_model"},
    # Commits as soon as a slice is whole, and parquets of several slices: more places to be hit at.
    {"at": "pipeline.committer:Committer.due", "do": "pass", "arguments": {"every": 0.0}},
    {"at": "pipeline.shards:cut", "do": "pass", "arguments": {"slice_bytes": 20_000}},
]


@dataclass(frozen=True)
class Fault:
    """What happens at the `nth` call of the function `at`, counted over all processes; `on`: at all later calls too."""

    at: str  # module:function or module:Class.function
    do: str = "kill"  # kill, kill node, raise, sleep, wait (until another has happened), note (that it did), count
    when: str = "before"  # the function's work, or after it, or failing (it raised an error of this name)
    nth: int = 1
    where: str = ""  # an expression over the function's arguments; only these calls are counted
    on: bool = False
    error: str = "builtins:OSError"
    says: str = "caused by a test"
    seconds: float = 0.0
    until: str = ""  # another fault's name
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])  # what dying workers count is not ours


def waves() -> list[Fault]:
    """Not faults, but a pace: the model waits for the first commit, then for the second, before it embeds the rest.

    However slow the machine is, a job of a few small shards then makes three commits at least.
    """
    faults = []
    for number, call in ((1, 17), (2, 35)):
        note = Fault("pipeline.database:Database.swap", "note", "after", number, where="suffix == '' and fragments")
        wait = Fault("tests.faults.model:SmallEmbedder.embed", "wait", nth=call, on=True, until=note.name, seconds=10)
        faults += [note, wait]
    return faults


def place(folder: Path, *faults: Fault) -> Path:
    """Write the faults where the hook of a process with FAULTS=folder finds them."""
    folder.mkdir(exist_ok=True)
    staged = (
        folder / f"{uuid.uuid4().hex}.staged"
    )  # processes that start read it at any moment, and half of it kills them
    staged.write_text(json.dumps([*ALWAYS, *map(asdict, faults)]))
    staged.replace(folder / "faults.json")
    return folder


def happened(folder: Path, fault: Fault) -> bool:
    """Whether the fault has happened."""
    return (folder / f"{fault.name}.happened").exists()


def environment(faults: Path, **more: str) -> dict[str, str]:
    """Of a process that is to have the faults of a folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mine = {"PATH": path, "PYTHONPATH": f"{HOOK}:{REPOSITORY}", "FAULTS": str(faults), "RAY_AUTH_MODE": "disabled"}
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | mine | more


@dataclass
class Done:
    """A job that has ended, with what it said on standard error and its summary, if it came so far."""

    code: int
    said: str
    summary: dict[str, Any]
    seconds: float


@dataclass
class Job:
    """A job that runs."""

    process: "subprocess.Popen[str]"
    began: float = field(default_factory=time.monotonic)

    def done(self, within: float = 240) -> Done:
        """Wait for its end; a job that hangs is killed and is an error."""
        try:
            shown, said = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.kill()
            _, said = self.process.communicate()
            raise AssertionError(f"the job did not end within {within} s; it said:\n{said}") from None
        return Done(self.process.returncode, said, json.loads(shown or "{}"), time.monotonic() - self.began)

    def kill(self) -> None:
        """-9 for the driver; its local Ray, if it has one, sees that by itself."""
        self.process.send_signal(signal.SIGKILL)


def start(shards: Path | str, lake: Path | str, *options: str, env: Mapping[str, str], on: Sequence[str] = ()) -> Job:
    """Start the embedding job; `on`: what a command must begin with to run on another host."""
    job = str(REPOSITORY / "jobs" / "embed_laion.py")
    command = [*on, sys.executable, job, "--input", str(shards), "--db", str(lake)]
    command += ["--device", "cpu", "--json", "--no-report", *options]
    pipe = subprocess.PIPE
    return Job(subprocess.Popen(command, env=dict(env), cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True))
