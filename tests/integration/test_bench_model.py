"""The benchmarks of the model compute in every bar what the documentation's loop does, and need little installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import fp8, gpu, gpu_ceiling, like, tags, waterfall
from bench.model import Options, main
from model.operations import Sizes, operations_a_pair

ROOT = Path(__file__).parents[2]
# What torch, transformers and numpy do not bring.
ABSENT = ("ray", "lance", "lancedb", "pyarrow", "PIL", "platformdirs", "tyro", "datafusion", "pandas", "pipeline")


def test_gpu_benchmark_runs_every_bar_without_a_gpu_and_without_the_rest_of_the_house(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = "--sizes tiny --device cpu --parts bars fed --pictures 10 --repeats 1 --workers 2"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from bench import gpu\n"
        f"sys.exit(gpu.main(gpu.options('{options} --out {out}'.split())))"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU: these are not figures of one, which stay open" in done.stdout
    assert "+ fp8: left out, a CPU does not multiply float8" in done.stdout
    assert "decode + model together: not measured: pipeline.decode cannot be imported" in done.stdout
    found = json.loads(out.read_text())
    assert {(row["tokens"], row["captions"]) for row in found["bars"]} == {(20, 1), (20, 5), (50, 1), (50, 5)}
    assert {row["same"] for row in found["bars"]} == {True}
    assert found["alone"].keys() == {"bf16_tflops", "to_device_gb_s", "within_device_gb_s"}


def test_gpu_benchmark_notices_a_bar_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "CASES", [waterfall.Case(20, 1)])
    right = gpu.one_backbone
    monkeypatch.setattr(gpu, "one_backbone", lambda *args: (found := right(*args))._replace(text=-found.text))
    assert (
        gpu.main(
            gpu.options(["--sizes", "tiny", "--device", "cpu", "--pictures", "3", "--repeats", "1", "--parts", "bars"])
        )
        == 1
    )
    assert capsys.readouterr().out.count("NOT THE SAME") == 2  # with SDPA, and without


def test_gpu_benchmark_has_bars_in_float8_where_the_device_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "CASES", [waterfall.Case(20, 2)])
    for room in (gpu, gpu_ceiling):
        monkeypatch.setattr(room, "lacks_float8", lambda device: "")  # torch multiplies it on CPUs too, slowly
    out = tmp_path / "gpu.json"
    options = f"--sizes tiny --device cpu --parts bars --pictures 5 --repeats 1 --out {out}".split()
    assert gpu.main(gpu.options(options)) == 0
    found = json.loads(out.read_text())
    *_, last, alone, whole = found["bars"]
    assert [bar["dtype"] for bar in (last, alone, whole)] == ["bfloat16", "fp8", "fp8"]
    assert last["cosine"] > alone["cosine"] > 0.98
    assert alone["cosine"] == pytest.approx(whole["cosine"], abs=1e-4)
    assert found["alone"]["fp8_tflops"] > 0


def test_gpu_benchmark_says_where_memory_does_not_suffice() -> None:
    def full(batch: waterfall.Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    shape = waterfall.Model("tiny", "cpu").shape
    batch = waterfall.Batch.random(shape, waterfall.Case(20, 1), 1, "cpu")
    assert gpu.measure(gpu.Bar("full", "float32", full), batch, "cpu", 1) == (None, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "gf"), [("large", 390.4), ("base", 101.4)])
def test_counted_operations_are_those_of_the_readme(size: str, gf: float) -> None:
    assert waterfall.flops_a_pair(size, waterfall.Case(20, 1)) / 1e9 == pytest.approx(gf, abs=0.05)


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("change", [{}, {"num_hidden_layers": 1}], ids=["", "one fusion layer"])
@pytest.mark.parametrize("size", ["large", "base", "tiny"])
def test_operations_told_without_torch_are_those_that_torch_counts(
    size: str, change: dict[str, int], captions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = waterfall.SIZES[size] | change
    monkeypatch.setitem(waterfall.SIZES, size, shape)
    sizes = Sizes.of(shape)
    assert operations_a_pair(sizes, 20, captions) == waterfall.flops_a_pair(size, waterfall.Case(20, captions))
    if captions == 1:
        assert sizes.tags(7) / 1e9 == pytest.approx(tags.operations(size)[1], rel=1e-9)


def test_tags_benchmark_tells_what_they_add_in_operations_and_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        tags.main(tags.Options(sizes=("tiny",), captions=(1,), pairs=2, repeats=1))
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "tiny, 1 captions an image" in printed
    assert printed.rstrip().endswith("time")


@pytest.mark.parametrize(("size", "gf"), [("large", 76.2), ("base", 31.7)])
def test_counted_operations_of_tags_are_those_of_the_readme(size: str, gf: float) -> None:
    assert tags.operations(size)[1] == pytest.approx(gf, abs=0.05)


def test_cpu_benchmark_prints_both_waterfalls(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        main(Options(size="tiny", pictures=2, repeats=1))
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.count("documentation's loop") == 2
    assert printed.count("+ bfloat16") == 2


def test_float8_benchmark_tells_what_each_type_costs(capsys: pytest.CaptureFixture[str]) -> None:
    fp8.main(fp8.Options(scenes=30, size="tiny", random=4, json=True))
    told = json.loads(capsys.readouterr().out)
    for weights in ("tiny", "demo"):
        rough, small = told[weights]["bfloat16"], told[weights]["fp8"]
        for vector in ("image", "text", "cross"):
            assert 1 > rough[f"{vector} mean"] > small[f"{vector} mean"] >= small[f"{vector} least"] > 0.9
        assert small["itm"] >= small["itm p99"] > small["itm mean"] > rough["itm mean"] > 0
    two = told["retrieval"]["2"]
    assert two["fp8"]["auc_colours"] > 0.9
    assert two["fp8"] != two["float32"]


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_clip_of_the_peer_costs_within_three_percent_of_a_pair_of_ours(size: str) -> None:
    wanted = waterfall.flops_a_pair(size, waterfall.Case(tokens=20, captions=1))
    assert like.operations(like.shape(size, wanted)) == pytest.approx(wanted, rel=0.03)
