"""The clock set back between runs and in mid-job: nothing that is committed, resumed or replaced rests on it."""

import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.inputs import make_shards
from tests.faults.launch import Fault, waves
from tests.faults.proof import prove
from tests.shards import members, write_tar

PACKAGE = find_spec("libfaketime")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(PACKAGE is None, reason="libfaketime is not installed; it sets the clock of one process"),
]


def clock(**how: str) -> dict[str, str]:
    """Variables of a process that lives at another time."""
    assert PACKAGE is not None
    library = Path(str(PACKAGE.origin)).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **how}


def killed_after_its_first_commit() -> Fault:
    return Fault("pipeline.database:Database.swap", when="after", where="suffix == '' and fragments")


def test_a_clock_set_back_between_runs_changes_nothing(head: Head, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    head.place(*waves(), killed_after_its_first_commit())
    assert head.embed(shards, tmp_path / "lake").code == -signal.SIGKILL
    write_tar(shards / "00000.tar", members(10, start=500))  # whatever was committed of it is to be replaced
    head.place(*waves(), killed_after_its_first_commit())
    assert head.embed(shards, tmp_path / "lake", **clock(FAKETIME="-2d")).code == -signal.SIGKILL
    head.place()
    assert head.embed(shards, tmp_path / "lake", **clock(FAKETIME="-9d")).code == 0
    assert head.embed(shards, tmp_path / "reference").code == 0
    prove(tmp_path / "lake", tmp_path / "reference")
    last = head.embed(shards, tmp_path / "lake")
    assert (last.code, last.summary["committed"]) == (0, 0), last.said


def test_a_clock_set_back_in_mid_job_changes_nothing(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("+0")
    pace = waves()
    head.place(*pace)
    # Read once a second: a library that reads it at each call has threads that read what others are writing.
    job = head.start(shards, tmp_path / "lake", **clock(FAKETIME_TIMESTAMP_FILE=str(file), FAKETIME_CACHE_DURATION="1"))
    while not head.happened(pace[0]) and job.process.poll() is None:
        time.sleep(0.05)
    (tmp_path / "later").write_text("-400d")
    (tmp_path / "later").rename(file)
    done = job.done()
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
