"""The parts of `bench.gpu` that run in several processes, on a CPU: JPEGs that feed it, and two that share it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench import gpu, gpu_feed, gpu_share
from bench.gpu_feed import Memory, Told
from model.geometry import Geometry
from pipeline.config import ReadConfig
from pipeline.prepare import prepare_slice
from tests.shards import whole, write_tar

GEOMETRY = Geometry(shortest=64, crop=64)


def test_fed_squares_are_those_that_a_run_would_embed(tmp_path: Path) -> None:
    memory = Memory(str(tmp_path), GEOMETRY, pictures=9, slots=2)
    memory.draw()
    for first in (0, 8):
        gpu_feed.fill(memory, 1, first)
    items = [
        (f"{i}.{kind}", data) for i in range(9) for kind, data in (("jpg", memory.photo(i).read_bytes()), ("txt", b"a"))
    ]
    read = ReadConfig((str(write_tar(tmp_path / "a.tar", items)),))
    tables = prepare_slice(whole(tmp_path / "a.tar"), "a", read, gpu_feed.preparer_of(GEOMETRY))
    wanted = [pixels for table in tables for pixels in table["pixels"].to_pylist() if pixels]
    assert [square.tobytes() for square in memory.squares("r")[1]] == wanted
    assert not memory.squares("r")[0].any()


def test_gpu_benchmark_measures_decode_and_model_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    options = f"--sizes tiny --device cpu --parts fed --pictures 8 --repeats 1 --seconds 0.1 --workers 1 --out {out}"
    assert gpu.main(gpu.options(options.split())) == 0
    (found,) = json.loads(out.read_text())["fed"]
    assert found["ratio"] == pytest.approx(found["together"] / found["alone"])
    assert 0 <= found["waited"] < 1
    assert f"decode + model together: {found['together']:,.1f} pairs/s, 1 processes decode" in capsys.readouterr().out


class Counting:
    """Decodes so many more batches while it is looked at, and counts what it is asked for."""

    def __init__(self, ready: list[int]) -> None:
        self.ready = iter(ready).__next__

    def settled(self) -> list[np.ndarray]:
        return [np.zeros(1)] * 2

    def __iter__(self):
        while True:
            yield np.zeros(1)


def test_batches_decoded_before_the_time_began_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 1000.0))
    monkeypatch.setattr(gpu_feed.time, "perf_counter", lambda: next(clock))
    told = Told(seconds=0, repeats=1)  # so that each stretch has its least: four batches
    level = gpu_feed.beside(iter, Counting([1, 1]), told)  # type: ignore[arg-type]
    drained = gpu_feed.beside(iter, Counting([2, 0]), told)  # type: ignore[arg-type]
    assert level["ratio"] == 1
    assert drained["ratio"] == 0.5
    assert level["waited"] == 0.4


def test_feeding_is_not_measured_on_few_cores_nor_in_too_little_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = Memory(str(tmp_path), GEOMETRY, pictures=64, slots=3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))
    assert gpu_feed.lacking(memory, None).startswith("3 cores, fewer than 4: --workers says")
    assert gpu_feed.lacking(memory, 2) == ""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert gpu_feed.lacking(memory, None) == ""
    monkeypatch.setattr(gpu_feed.shutil, "disk_usage", lambda folder: type("", (), {"free": 2**20}))
    assert "which has 1 (Docker: --shm-size)" in gpu_feed.lacking(memory, None)


def test_gpu_benchmark_measures_two_processes_beside_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    options = f"--sizes tiny --device cpu --parts shared --pictures 2 --repeats 1 --seconds 0.2 --out {out}"
    assert gpu.main(gpu.options(options.split())) == 0
    (found,) = json.loads(out.read_text())["shared"]
    assert found["ratio"] == pytest.approx(found["two"] / found["one"])
    assert (found["calls_of"], found["calls_of_each"]) == (2, 2)
    assert f"x {found['ratio']:.2f}\n" in capsys.readouterr().out  # and nothing of --num-gpus, where there is no GPU


def test_two_processes_are_told_to_be_faster_only_where_they_are() -> None:
    found = {"device": "cuda", "one": 100.0, "two": 110.0, "ratio": 1.1, "calls_of": 64, "calls_of_each": 64}
    assert gpu_share.line(found).endswith("x 1.10: --num-gpus 0.5 is the faster")
    assert gpu_share.line(found | {"ratio": 0.98}).endswith("x 0.98: --num-gpus 1 is the faster")


def test_process_that_ends_early_is_told_in_place_of_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(work: gpu_share.Work) -> None:
        raise EOFError

    monkeypatch.setattr(gpu_share, "ready", ended)
    found = gpu_share.measure(gpu_share.Work("tiny", "cpu", 2, compiled=False), Told(1, 1))
    assert gpu_share.line(found) == (
        "two processes on one device: not measured: one of the processes ended before its time, by the error above"
    )
