"""The parts of `bench.gpu` that run in several processes, on a CPU: JPEGs that feed it, and two that share it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu, gpu_feed, gpu_share
from bench.gpu_feed import Memory, Timing
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


def measured(tmp_path: Path, part: str, options: str) -> dict[str, Any]:
    """What the JSON says of this part, on a CPU."""
    out = tmp_path / "gpu.json"
    options += f" --sizes tiny --device cpu --parts {part} --repeats 1 --out {out}"
    assert gpu.main(gpu.options(options.split())) == 0
    told = json.loads(out.read_text())
    assert told["device"].startswith("no GPU: these are not figures of one")
    assert told["alone"]["bf16_tflops"] > 0
    (found,) = told[part]
    assert found["size"] == "tiny"
    return found


def test_gpu_benchmark_measures_decode_and_model_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(tmp_path, "fed", "--pictures 8 --seconds 0.1 --workers 1")
    assert min(found["alone"], found["together"], found["ratio"]) > 0
    assert 0 <= found["waited"] < 1
    assert (found["processes"], found["cores"], found["pixels"]) == (1, gpu_feed.cores(), gpu_feed.SIDE)
    assert f"decode + model together: {found['together']:,.1f} pairs/s, 1 processes decode" in capsys.readouterr().out


class Decoded:
    """Batches without end, of which so many are decoded whenever it is asked how many are."""

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
    timing = Timing(seconds=0, repeats=1)  # so that each stretch has its least: four batches
    level = gpu_feed.beside(iter, Decoded([1, 1]), timing)  # type: ignore[arg-type]
    drained = gpu_feed.beside(iter, Decoded([2, 0]), timing)  # type: ignore[arg-type]
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
    found = measured(tmp_path, "shared", "--pictures 2 --seconds 0.2")
    assert min(found["one"], found["two"]) > 0
    assert (found["device"], found["calls_of"], found["calls_of_each"]) == ("cpu", 2, 2)
    assert f"x {found['ratio']:.2f}\n" in capsys.readouterr().out  # and nothing of --num-gpus, where there is no GPU


class Line:
    """To a process that answers this, batches a second and pictures in a call, one after another."""

    def __init__(self, *answers: tuple[float, int]) -> None:
        self.recv = iter(answers).__next__

    def send(self, seconds: float) -> None:
        assert seconds == 5


def test_two_processes_are_compared_with_one_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Line((10, 64), (20, 64), (40, 64)), Line((9, 32), (11, 32), (30, 32)), Line((11, 16), (11, 16), (30, 16))

    @contextmanager
    def ready(work: gpu_share.Work) -> Iterator[tuple[Line, ...]]:
        yield lines

    monkeypatch.setattr(gpu_share, "ready", ready)
    found = gpu_share.measure(gpu_share.Work("tiny", "cpu", 2, compiled=False), Timing(5, 3))
    rates = {"one": 2 * 20, "two": 2 * 22, "ratio": 1.5}  # medians: in the rounds it is 2, 1.1 and 1.5 times as fast
    assert found == {"device": "cpu", **rates, "calls_of": 64, "calls_of_each": 16}


def test_two_processes_are_told_to_be_faster_only_where_they_are() -> None:
    found = {"device": "cuda", "one": 100.0, "two": 110.0, "ratio": 1.1, "calls_of": 64, "calls_of_each": 64}
    assert gpu_share.line(found).endswith("x 1.10: --num-gpus 0.5 is the faster")
    assert gpu_share.line(found | {"ratio": 0.98}).endswith("x 0.98: --num-gpus 1 is the faster")


def test_process_that_ends_early_is_told_in_place_of_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(work: gpu_share.Work) -> None:
        raise EOFError

    monkeypatch.setattr(gpu_share, "ready", ended)
    found = gpu_share.measure(gpu_share.Work("tiny", "cpu", 2, compiled=False), Timing(1, 1))
    assert gpu_share.line(found) == (
        "two processes on one device: not measured: one of the processes ended before its time, by the error above"
    )
