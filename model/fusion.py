"""The layers of the towers and of the fusion, of which only what is read later is computed.

The modules are transformers' own, with their weights. Its attention is not used: BridgeTowerBertCrossLayer says
that it is causal, and SDPA would believe it wherever no token is padded, wrong by up to 0.1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from model.packed import in_projection

_MANY = 64  # queries and keys from which plain products are faster on a CPU in bfloat16


@dataclass(frozen=True)
class Opening:
    """What the first fusion layer makes of captions, or of pictures, before the two meet; shared by all their pairs."""

    states: Tensor  # (B, L, H), after self-attention
    query: Tensor  # (B, heads, L, d), with which they read the other side
    key: Tensor  # (B, heads, L, d), by which the other side reads them
    value: Tensor

    def of(self, index: Tensor) -> "Opening":
        """Those of pairs, given as indexes (P,)."""
        return Opening(*(x.index_select(0, index) for x in (self.states, self.query, self.key, self.value)))


def vision_block(block: Any, x: Tensor) -> Tensor:
    """BridgeTowerResidualAttention, the batch first: (N, T, H) -> the same."""
    batch, tokens, _ = x.shape
    heads = in_projection(block.attn, block.ln_1(x)).view(batch, tokens, 3, block.attn.num_heads, -1)
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    x = x + block.attn.out_proj(_looked(query, key, value))
    moved: Tensor = x + block.mlp.c_proj(block.mlp.gelu(block.mlp.c_fc(block.ln_2(x))))
    return moved


def text_block(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """BridgeTowerTextLayer: (B, L, H) -> the same."""
    moved: Tensor = block.feed_forward_chunk(self_attention(block, x, x, mask))
    return moved


def self_attention(layer: Any, asked: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """What the tokens `asked` read in all of their own side."""
    attn = layer.attention.self
    read = attend(attn, _split(attn.query, asked, attn), *_key_value(attn, states), mask)
    moved: Tensor = layer.attention.output(read, asked)
    return moved


def open_side(own: Any, other: Any, x: Tensor, mask: Tensor | None, *, only_first: bool) -> Opening:
    """The first fusion layer, as far as one side goes alone.

    Args:
        own: the fusion layer of this side.
        other: the fusion layer of the other side, which will read this one.
        x: (B, L, H), after the fusion's first norm.
        mask: of this side's tokens.
        only_first: of this side only the first token is needed.
    """
    states = self_attention(own, x[:, :1] if only_first else x, x, mask)
    cross = own.crossattention.self
    return Opening(states, _split(cross.query, states, cross), *_key_value(other.crossattention.self, x))


def close_side(own: Any, mine: Opening, other: Opening, other_mask: Tensor | None) -> Tensor:
    """The rest of the first fusion layer, pair by pair."""
    read = attend(own.crossattention.self, mine.query, other.key, other.value, other_mask)
    moved: Tensor = own.feed_forward_chunk(own.crossattention.output(read, mine.states))
    return moved


def fusion_layer(own: Any, x: Tensor, other: Tensor, masks: tuple[Tensor | None, Tensor | None], last: bool) -> Tensor:
    """One side of BridgeTowerBertCrossLayer; the `last` computes only the first token, which the poolers read.

    Args:
        own: the fusion layer of this side.
        x: (P, L, H), this side.
        other: the other side.
        masks: of this side's and of the other side's tokens.
        last: whether only the first token is needed.
    """
    states = self_attention(own, x[:, :1] if last else x, x, masks[0])
    cross = own.crossattention.self
    read = attend(cross, _split(cross.query, states, cross), *_key_value(cross, other), masks[1])
    moved: Tensor = own.feed_forward_chunk(own.crossattention.output(read, states))
    return moved


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of heads (B, heads, L, d) -> (B, L, H), never causal."""
    if mask is None and not module.training:
        return _looked(query, key, value)
    dropout = module.dropout.p if module.training else 0.0
    return _joined(scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=False))


def _looked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without a mask, as between the patches of a picture."""
    rough = query.dtype == torch.bfloat16 and query.device.type == "cpu" and not query.requires_grad
    if not rough or min(query.shape[2], key.shape[2]) < _MANY or torch.compiler.is_compiling():
        return _joined(scaled_dot_product_attention(query, key, value, is_causal=False))
    # torch's fused kernel for CPUs multiplies bfloat16 no faster than float32; plain products do.
    batch, heads, length, width = query.shape
    looked = query.new_empty(batch, length, heads, width)
    for i in range(batch):  # one picture at a time: its scores stay in the cache
        scores = (query[i] * width**-0.5) @ key[i].transpose(-1, -2)
        looked[i] = (scores.softmax(-1) @ value[i]).transpose(0, 1)
    return looked.flatten(2)


def _key_value(module: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    return _split(module.key, states, module), _split(module.value, states, module)


def _split(projection: nn.Module, states: Tensor, module: Any) -> Tensor:
    heads: Tensor = projection(states).unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)
    return heads


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)
