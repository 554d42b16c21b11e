"""Linear layers in float8: weights rounded once with a scale for each output, activations in each call, for each token.

For inference only, on GPUs that multiply float8. A copy of such a layer is a plain one in float32 with the rounded
weights, so a tower can be copied to compute exactly.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max
_LEAST = 1e-12  # that a row's largest value counts as, or a row of zeros would be divided by zero
_MULTIPLE = 16  # of which the kernels want both sides of a weight to be


class Scaled(nn.Module):
    """A linear layer: float8 products, their sum in bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        rounded, scale = _rounded(weight.detach())
        self.weight = nn.Parameter(rounded, requires_grad=False)  # (out, in)
        self.scale = nn.Parameter(scale.view(1, -1), requires_grad=False)  # (1, out)
        self.bias = nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        rows, scale = _rounded(x.flatten(0, -2))
        by_row = ScalingType.RowWise
        # Fast: summed in the tensor cores' own 22 bits, which is far finer than the rounding of what is summed.
        moved = scaled_mm(rows, self.weight.t(), scale, by_row, self.scale, by_row, bias=self.bias, use_fast_accum=True)
        return moved.view(*x.shape[:-1], len(self.weight))

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        plain = nn.Linear(self.weight.shape[1], self.weight.shape[0], device="meta")
        plain.weight = nn.Parameter(self.weight.float() * self.scale.t(), requires_grad=False)
        plain.bias = nn.Parameter(self.bias.float(), requires_grad=False)
        return plain


def quantise(backbone: nn.Module) -> None:
    """Replace the linear layers of the towers and the fusion; poolers stay, and sizes that the kernels do not take."""
    for name, module in list(backbone.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and _fits(module.in_proj_weight):
            module.in_projection = Scaled(module.in_proj_weight, module.in_proj_bias)
            module.in_proj_weight = module.in_proj_bias = None  # type: ignore[assignment]
        for part, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and "pooler" not in name and _fits(child.weight):
                setattr(module, part, Scaled(child.weight, child.bias))


def computes_in(model: nn.Module, dtype: torch.dtype) -> str:
    """What `--dtype` calls it: that of its scaled layers if it has any, else `dtype`."""
    scaled = any(isinstance(module, Scaled) for module in model.modules())
    return "fp8" if scaled else str(dtype).removeprefix("torch.")


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, in) -> the same in float8, and what each row was divided by, (rows, 1) float32.

    What is not finite stays so: it makes its whole row NaN.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=_LEAST) / _LARGEST
    return (wide / scale).to(_FLOAT8), scale


def _fits(weight: Tensor) -> bool:
    return all(side % _MULTIPLE == 0 for side in weight.shape)
