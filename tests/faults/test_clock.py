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


def clock(file: Path) -> dict[str, str]:
    """Variables of a process that lives so far from now as the file says."""
    assert PACKAGE is not None
    library = Path(str(PACKAGE.origin)).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def killed_after_its_first_commit() -> Fault:
    return Fault("pipeline.database:Database.swap", when="after", where="suffix == '' and fragments")


def test_a_clock_set_back_between_runs_changes_nothing(head: Head, tmp_path: Path) -> None:
    shards, file = make_shards(tmp_path / "shards"), tmp_path / "clock"
    head.place(*waves(), killed_after_its_first_commit())
    assert head.embed(shards, tmp_path / "lake").code == -signal.SIGKILL
    write_tar(shards / "00000.tar", members(10, start=500))  # whatever was committed of it is to be replaced
    head.place(*waves(), killed_after_its_first_commit())
    file.write_text("-2d")
    assert head.embed(shards, tmp_path / "lake", **clock(file)).code == -signal.SIGKILL
    head.place()
    file.write_text("-9d")
    assert head.embed(shards, tmp_path / "lake", **clock(file)).code == 0
    assert head.embed(shards, tmp_path / "reference").code == 0
    prove(tmp_path / "lake", tmp_path / "reference")
    last = head.embed(shards, tmp_path / "lake")
    assert (last.code, last.summary["committed"]) == (0, 0), last.said


def test_a_clock_set_back_in_mid_job_changes_nothing(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("+0")
    pace = waves()
    head.place(*pace)
    job = head.start(shards, tmp_path / "lake", **clock(file))
    while not head.happened(pace[0]) and job.process.poll() is None:
        time.sleep(0.05)
    file.write_text("-400d")
    done = job.done()
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
