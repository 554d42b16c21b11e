"""How quick a run may be where nothing is up to be measured: counted operations, published speeds, reading here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embed import Model
from pipeline.forecasts.schedule import Speed
from pipeline.forecasts.totals import Totals

if TYPE_CHECKING:
    from pipeline.capacity import Capacity
    from pipeline.cluster import Placement

_SHARE = 0.4  # of the published speed; assumed
# Dense bfloat16 TFLOP/s by NVIDIA's data sheets, which tell some of them with sparsity, twice as much: H100 and H200 as
# SXM (1,979 with sparsity), A100 (312), L40S (362), L4 (242 with sparsity), A10G (70; 125 is the A10's). T4 and V100 do
# not multiply in bfloat16.
_TFLOPS = {"A100": 312, "A100-40G": 312, "A100-80G": 312, "A10G": 70, "H100": 989, "H200": 989, "L4": 121, "L40S": 362}
_TELL = "name it in the cluster's file, among the resources of those nodes, as accelerator_type:L40S: 1"


def tokens_of(rows: Sequence[pa.Table]) -> float:
    """Of a caption, on average over prepared samples."""
    captions = [pc.list_flatten(table["captions"].combine_chunks()) for table in rows]
    lengths = [pc.list_value_length(pc.struct_field(each, "token_ids")) for each in captions]
    count = sum(map(len, lengths))
    return sum(pc.sum(each).as_py() or 0 for each in lengths) / count if count else 0.0


def estimate(
    model: Model, on: "Placement", has: "Capacity", readers: int, seen: Totals, tokens: float
) -> tuple[Speed, str] | str:
    """The speed, once the nodes are up, and in words what it rests on; or why there is none.

    Args:
        model: of the run.
        on: how the run would be laid out.
        has: the cluster, with what its autoscaler may bring.
        readers: that it has room for.
        seen: of the sampled shards.
        tokens: of a caption.
    """
    captions = seen.pairs.value / seen.samples.value if seen.samples.value else 0.0
    operations = model.operations(tokens, captions) if captions else None
    kinds = has.gpu_kinds
    for wrong, why in (
        (not seen.seconds or not operations, "no pair was read, or the model does not tell its operations"),
        (on.device != "cuda", "no speed of a CPU is published; measure on nodes that are up"),
        (on.dtype != "bfloat16", f"published speeds are those of bfloat16, not of {on.dtype}"),
        ("" in kinds, f"which GPU the nodes have is not told: {_TELL}"),
        (
            not kinds.keys() <= _TFLOPS.keys(),
            f"of {', '.join(kinds)}: published speeds known are of {', '.join(_TFLOPS)}",
        ),
    ):
        if wrong:
            return why
    assert operations  # noqa: S101  # looked at above
    published = sum(_TFLOPS[kind] * gpus for kind, gpus in kinds.items()) / sum(kinds.values())
    embed = on.actors * on.num_gpus * published * 1e12 * _SHARE / operations
    each = ", ".join(f"{_TFLOPS[kind]} of {kind}" for kind in kinds)
    return Speed(readers, 1 / seen.seconds, embed, 0.0, 0.0), (
        f"{operations / 1e9:,.1f} GFLOP a pair, counted; {on.actors * on.num_gpus:g} GPUs at {_SHARE:.0%}, which is "
        f"assumed, of the published bfloat16 TFLOP/s ({each}); {readers} readers that take {seen.seconds * 1000:,.1f} "
        "ms a pair, as this machine did; without the minutes in which nodes start"
    )
