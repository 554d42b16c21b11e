"""What the model makes of a GPU, as a waterfall: pairs a second, share of the counted limit, peak memory.

    python -m bench.gpu --out gpu.json
    python -m bench.gpu --parts shared --sizes large        # are two actors faster on this GPU than one?
    python -m bench.gpu --sizes tiny --device cpu --repeats 1 --seconds 1 --workers 2    # all parts, without a GPU

Beside the waterfall (bars): decode and model together (fed), and two processes on one GPU (shared).
torch, transformers and numpy alone, but Pillow for what is fed. The waterfall's limit is what the GPU would do if it
multiplied all the time as fast as it multiplies large bfloat16 matrices, measured in the same run, over the counted
operations of our pass.
"""

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from bench import gpu_feed, gpu_share
from bench.gpu_actor import Actor
from bench.gpu_ceiling import ceiling, seconds
from bench.hardware import hardware
from bench.waterfall import Batch, Case, Model, first, flops_a_pair, one_backbone, sdpa, shift, staged
from model.bridgetower import BridgeTower
from model.compiled import Compiled
from model.embedding import Embedding, Embeddings
from model.fp8 import quantise
from model.hardware import lacks_float8

CASES = [Case(20, 1), Case(20, 5), Case(50, 1), Case(50, 5)]
LOOP_PAIRS = 10  # of the documentation's loop, a pair at a time
# Beyond, a bar is not the same computation.
BOUNDS = {"float32": ("error", 1e-4), "bfloat16": ("cosine", 0.99), "fp8": ("cosine", 0.95)}
ROUGH, COMPILED = "+ bfloat16", "+ torch.compile"
WHOLE = "from the host's memory and back, as it runs"


class Bar(NamedTuple):
    """One technique more than the bar before."""

    name: str
    dtype: str
    run: Callable[[Batch], Embeddings]
    over: str = ""  # the bar that its gain is told over, where that is not the one before


def compiles(streamed: Embedding, stages: Compiled, what: str) -> bool:
    """Compile; where that fails, which is said, no bar bears its name."""
    took = streamed.compile(stages)
    if took:
        print(f"  {what}compiled in {took:.0f} s", flush=True)
    return bool(took)


def bars(model: Model, device: str, compiled: bool) -> list[Bar]:
    """The waterfall; each entry is the one before with one thing changed."""
    tower, rough = model.tower, deepcopy(model.tower).cast(torch.bfloat16)
    users = model.rounded()
    stages, streamed = Compiled(rough), Embedding(rough)
    compiled = compiled and compiles(streamed, stages, "")

    def with_sdpa(batch: Batch) -> Embeddings:
        with sdpa(tower):
            return one_backbone(tower, batch, batch.normal(tower))

    found = [
        Bar("documentation's loop", "float32", lambda b: model.loop(b, b.normal(tower))),
        Bar("a batch at a time", "float32", lambda b: model.both(b, b.normal(tower))),
        Bar("the same in bfloat16", "bfloat16", lambda b: users.both(b, b.normal(tower, torch.bfloat16))),
        Bar("one backbone, float32 again", "float32", lambda b: one_backbone(tower, b, b.normal(tower))),
        Bar("+ SDPA", "float32", with_sdpa),
        Bar("+ shared, first tokens, no states kept", "float32", lambda b: staged(tower, tower, b)),
        Bar(ROUGH, "bfloat16", lambda b: staged(rough, rough, b)),
    ]
    if compiled:
        found.append(Bar(COMPILED, "bfloat16", lambda b: staged(stages, rough, b)))
        if device == "cuda":
            fixed = Compiled(rough, static=True)
            found.append(Bar("+ one graph a shape", "bfloat16", lambda b: staged(fixed, rough, b)))
    found.append(Bar(WHOLE, "bfloat16", lambda b: streamed(b.squares, b.token_ids.tolist(), b.image_of, len(b))))
    if lacking := lacks_float8(device):
        print(f"  + fp8: left out, {lacking} does not multiply float8", flush=True)
        return found
    return found + in_float8(rough, compiled)


def in_float8(rough: BridgeTower, compiled: bool) -> list[Bar]:
    """The quickest bars again with the linear layers in float8: the stages alone, and the whole path."""
    tower = deepcopy(rough)
    quantise(tower.bridgetower)
    stages, streamed = Compiled(tower), Embedding(tower)
    compiled = compiled and compiles(streamed, stages, "in float8 ")
    alone = stages if compiled else tower
    return [
        Bar("+ fp8", "fp8", lambda b: staged(alone, tower, b), COMPILED if compiled else ROUGH),
        Bar(
            f"+ fp8, {WHOLE.partition(',')[0]}",
            "fp8",
            lambda b: streamed(b.squares, b.token_ids.tolist(), b.image_of, len(b)),
            WHOLE,
        ),
    ]


def measure(bar: Bar, batch: Batch, device: str, repeats: int) -> tuple[Embeddings | None, dict[str, float]]:
    """The result and the figures of a bar; None where the memory does not suffice."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        result = bar.run(batch)
        took = [seconds(lambda: bar.run(batch), device) for _ in range(repeats)]
    except torch.OutOfMemoryError:
        return None, {}
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return result, {"pairs_per_s": len(batch) / statistics.median(took), "peak_gib": peak}


def waterfall(
    model: Model, case: Case, limit: float, args: argparse.Namespace, all_: list[Bar]
) -> list[dict[str, Any]]:
    """All bars of a case, printed as they are measured."""
    print(f"  {case.tokens} tokens, {case.captions} captions an image; limit {limit:,.0f} pairs/s", flush=True)
    many = Batch.random(model.shape, case, args.pictures, args.device)
    few = many.head(-(-LOOP_PAIRS // case.captions))
    wanted, rows = None, list[dict[str, Any]]()
    rates, before = dict[str, float](), ""
    for bar in all_:
        batch = few if wanted is None else many
        result, figures = measure(bar, batch, args.device, args.repeats)
        if result is None:
            print(f"    {bar.name:<44}  the memory does not suffice for {len(batch)} pairs", flush=True)
            continue
        wanted = wanted or result
        off = shift(first(result, len(few)), wanted)
        what, bound = BOUNDS[bar.dtype]
        same = off[what] <= bound if what == "error" else off[what] >= bound
        rates[bar.name] = rate = figures["pairs_per_s"]
        gain = rate / rates.get(bar.over or before, rate)
        print(
            f"    {bar.name:<44} {bar.dtype:<9} {rate:9.2f} pairs/s  x{gain:5.2f}  {rate / limit:6.1%} of the limit  "
            f"{figures['peak_gib']:6.1f} GiB  {what} {off[what]:.2g}{'' if same else '  NOT THE SAME'}",
            flush=True,
        )
        rows.append(
            {"bar": bar.name, "dtype": bar.dtype, **figures, **off, "same": same, "limit": limit, **case._asdict()}
        )
        before = bar.name
    return rows


def main(args: argparse.Namespace) -> int:
    """Measure, print, write JSON; 1 if a bar computes something else than the documentation's loop."""
    transformers.logging.set_verbosity_error()
    torch._dynamo.config.recompile_limit = 64  # beyond it, and it is 8, a bar would not be compiled and not say so
    on_gpu = args.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "no GPU: these are not figures of one, which stay open"
    top = ceiling(args.device, 8192 if on_gpu else 512)
    print(f"{hardware()}; {name}; transformers {transformers.__version__}")
    print("alone: " + ", ".join(f"{key} {value:,.1f}" for key, value in top.items()), flush=True)
    found: dict[str, Any] = {"hardware": hardware(), "device": name, "alone": top, "pictures": args.pictures}
    found |= {part: [] for part in args.parts}
    for size in args.sizes:
        print(size, flush=True)
        for part in args.parts:
            if part == "bars":
                found[part] += waterfalls(size, top["bf16_tflops"] * 1e12, args)
            else:
                figures, line = BESIDE[part](size, args)
                print(f"  {line}", flush=True)
                found[part].append({"size": size, **figures})
            forget()
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(row["same"] for row in found.get("bars", ())) else 1


@torch.inference_mode()
def waterfalls(size: str, operations: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The bars of all cases, on a device that does so many operations a second at most."""
    model = Model(size, args.device)
    all_ = bars(model, args.device, args.compile)
    rows = []
    for case in CASES:
        limit = operations / flops_a_pair(size, case)
        rows += [{"size": size, **row} for row in waterfall(model, case, limit, args, all_)]
    return rows


def fed(size: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Decode and model together, beside the model alone; and the line that tells it."""
    actor = Actor(size, args.device, args.pictures, args.compile)
    timing = gpu_feed.Timing(args.seconds, args.repeats)
    found = gpu_feed.measure(actor.embed, actor.geometry, args.pictures, timing, args.workers)
    return found, gpu_feed.line(found)


def shared(size: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Two processes on the device, beside one; and the line that tells it."""
    work = gpu_share.Work(size, args.device, args.pictures, args.compile)
    found = gpu_share.measure(work, gpu_feed.Timing(args.seconds, args.repeats))
    return found, gpu_share.line(found)


def forget() -> None:
    """Free what a part held of the device, compiled graphs too, so that the next has room."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


BESIDE = {"fed": fed, "shared": shared}
PARTS = ["bars", *BESIDE]


def options(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["large", "base"], choices=["large", "base", "tiny"])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is measured of each size")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--pictures", type=int, default=64, help="in one call")
    parser.add_argument("--repeats", type=int, default=5, help="timed; medians are reported")
    parser.add_argument("--seconds", type=float, default=5, help="of each stretch of what runs in several processes")
    parser.add_argument("--workers", type=int, help="processes that decode; default: for each core one but for one")
    parser.add_argument("--compile", action="store_true", help="also on a CPU, where it takes minutes")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args(given)
    args.compile |= args.device == "cuda"
    return args


if __name__ == "__main__":
    sys.exit(main(options()))
