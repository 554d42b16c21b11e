"""A disk that is full, a small tmpfs: under the table, and under Ray's spilled objects."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.head import Head, running_head
from tests.faults.proof import prove, sound

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small tmpfs to be filled"),
]


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of some size; asked again, the same disk with another size."""
    folder = tmp_path / "disk"

    def sized(size: str) -> Path:
        mount(folder, *(["remount"] if os.path.ismount(folder) else []), f"size={size}")
        return folder

    folder.mkdir()
    yield sized
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_full_disk_under_the_table_is_named_and_harms_nothing(
    head: Head, shards: Path, reference: Path, disk: Callable[[str], Path]
) -> None:
    for kibibytes in (4, 40, 90):  # full as the table is made, in the midst of it, towards the end
        lake = disk(f"{kibibytes}k") / "lake"
        done = head.embed(shards, lake)
        assert done.code == 1, done.said
        (error,) = [line for line in done.said.splitlines() if line.startswith("error: ")]
        assert "No space left on device" in error or "os error 28" in error
        disk("64m")  # else nothing can be read of it either
        sound(lake, reference)
    assert head.embed(shards, lake).code == 0
    prove(lake, reference)


def test_a_full_disk_under_rays_spilled_objects_ends_the_run_or_not_and_harms_nothing(
    head: Head, shards: Path, reference: Path, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    spill = disk("1m")
    options = ["--object-store-memory=80000000", f"--object-spilling-directory={spill}"]
    (tmp_path / "small").mkdir()
    with running_head(tmp_path / "small", *options) as small:
        (spill / "filling").write_bytes(bytes(1_000_000))
        done = small.embed(shards, tmp_path / "lake", "--stall-seconds", "30")
        assert done.code in (0, 1)
        sound(tmp_path / "lake", reference)
    assert head.embed(shards, tmp_path / "lake").code == 0
    prove(tmp_path / "lake", reference)
