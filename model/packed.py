"""Linear layers as this CPU's kernels want them: weights laid out once, not in every call; activations fused.

For inference only. A copy of a packed layer is a plain one, so a packed tower can be copied and moved.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import GELUActivation
from transformers.models.bridgetower.modeling_bridgetower import (
    BridgeTowerIntermediate,
    BridgeTowerResidualAttention,
)

_ROWS = 1024  # of the input, for which the layout is chosen; any other number works
_SMALLEST = 2**16  # weights; smaller layers gain nothing
_QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x) = silu(1.702 x) / 1.702
_PLAIN = {"none": nn.Identity, "gelu": nn.GELU, "swish": nn.SiLU}


class Packed(nn.Module):
    """A linear layer and the activation after it."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str = "none") -> None:
        super().__init__()
        self.weights = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.bias = bias.detach()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        algorithm = "none" if self.activation == "gelu" else ""
        moved: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weights, self.bias, self.activation, [], algorithm)
        return moved

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        weight: Tensor = self.weights.to_dense()
        plain = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = nn.Parameter(self.bias.clone(), requires_grad=False)
        return nn.Sequential(plain, _PLAIN[self.activation]())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights, packed or not."""
    packed = [m for m in model.modules() if isinstance(m, Packed)]
    plain = sum(p.numel() * p.element_size() for p in model.parameters())
    return plain + sum(t.numel() * t.element_size() for m in packed for t in (m.weights, m.bias))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU has kernels for packed weights of a type."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Replace the large linear layers of the towers and the fusion, in float32 so far, by packed ones of `dtype`."""
    for module in list(backbone.modules()):
        if isinstance(module, nn.MultiheadAttention):
            _pack_in_projection(module, dtype)
        elif isinstance(module, BridgeTowerResidualAttention):
            _pack_vision_mlp(module.mlp, dtype)
        elif isinstance(module, BridgeTowerIntermediate):
            _pack_intermediate(module, dtype)
    for name, module in list(backbone.named_modules()):
        for part, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and _is_large(child) and "pooler" not in name:
                setattr(module, part, _packed(child, dtype))


def in_projection(attention: Any, x: Tensor) -> Tensor:
    """Query, key and value of nn.MultiheadAttention at once: (..., H) -> (..., 3H)."""
    packed = getattr(attention, "in_projection", None)
    return packed(x) if packed else linear(x, attention.in_proj_weight, attention.in_proj_bias)


def _pack_in_projection(attention: Any, dtype: torch.dtype) -> None:
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if weight.numel() >= _SMALLEST:
        attention.in_projection = Packed(weight.to(dtype), bias.to(dtype))
        attention.in_proj_weight = attention.in_proj_bias = None


def _pack_vision_mlp(mlp: Any, dtype: torch.dtype) -> None:
    up, down = mlp.c_fc, mlp.c_proj
    if _is_large(up):
        mlp.c_fc = Packed((up.weight * _QUICK).to(dtype), (up.bias * _QUICK).to(dtype), "swish")
        mlp.gelu = nn.Identity()
        mlp.c_proj = Packed((down.weight / _QUICK).to(dtype), down.bias.to(dtype))


def _pack_intermediate(module: Any, dtype: torch.dtype) -> None:
    if _is_large(module.dense) and isinstance(module.intermediate_act_fn, GELUActivation):
        module.dense = _packed(module.dense, dtype, "gelu")
        module.intermediate_act_fn = nn.Identity()


def _packed(layer: nn.Linear, dtype: torch.dtype, activation: str = "none") -> Packed:
    return Packed(layer.weight.to(dtype), layer.bias.to(dtype), activation)


def _is_large(layer: nn.Linear) -> bool:
    return layer.weight.numel() >= _SMALLEST
