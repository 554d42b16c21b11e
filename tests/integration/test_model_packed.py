"""A tower whose layers are large enough to be packed, and one that is compiled, give what a plain one gives."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model import packed
from model.bridgetower import BridgeTower
from model.compiled import Compiled
from model.embedding import Embedding, Embeddings
from model.fusion import _looked
from model.packed import Packed, can_pack, pack
from tests.checkpoints import config

WIDE = {"hidden_size": 256, "intermediate_size": 512}


@cache
def tower() -> BridgeTower:
    torch.manual_seed(0)
    made = BridgeTower(config(hidden_size=256, num_attention_heads=4, text=WIDE, vision={"hidden_size": 256}))
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return made.eval().requires_grad_(False)


def embedded(embedding: Embedding, pictures: int = 3, captions: int = 2, size: int = 64) -> Embeddings:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (pictures, 64, 64, 3), dtype=np.uint8)
    ids = [rng.integers(5, 300, int(length)).tolist() for length in rng.integers(3, 30, pictures * captions)]
    return embedding(pixels, ids, np.repeat(np.arange(pictures), captions), size)


def assert_near(one: Embeddings, other: Embeddings, atol: float = 1e-5) -> None:
    for mine, theirs in zip(one[:5], other[:5], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


@pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch has no oneDNN")
def test_packed_tower_gives_the_same_and_its_copy_is_plain() -> None:
    mine = deepcopy(tower())
    pack(mine.bridgetower, torch.float32)
    kinds = {m.activation for m in mine.modules() if isinstance(m, Packed)}
    assert kinds == {"none", "gelu", "swish"}
    whole = embedded(Embedding(tower()))
    assert_near(embedded(Embedding(mine)), whole)
    copy = deepcopy(mine)
    assert not any(isinstance(m, Packed) for m in copy.modules())
    assert_near(embedded(Embedding(copy)), whole)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
def test_packed_tower_in_bfloat16_is_as_near_to_float32_as_a_plain_one() -> None:
    whole = embedded(Embedding(tower()))
    plain, mine = deepcopy(tower()), deepcopy(tower())
    pack(mine.bridgetower, torch.bfloat16)
    off = [
        max(1 - (getattr(whole, name) * getattr(found, name)).sum(-1).min() for name in ("image", "text", "cross"))
        for found in (embedded(Embedding(one.cast(torch.bfloat16))) for one in (plain, mine))
    ]
    assert off[1] < 2 * off[0] + 1e-4


def test_packing_leaves_small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_SMALLEST", 2**30)
    mine = deepcopy(tower())
    pack(mine.bridgetower, torch.float32)
    assert not any(isinstance(m, Packed) for m in mine.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_between_patches_is_that_of_sdpa_in_either_type(dtype: torch.dtype) -> None:
    states = torch.randn(3, 2, 4, 80, 16, generator=torch.Generator().manual_seed(0))
    wanted = scaled_dot_product_attention(*states).transpose(1, 2).flatten(2)
    found = _looked(*states.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("static", [False, True])
def test_compiled_stages_give_the_same_whatever_a_batch_holds(static: bool) -> None:
    torch._dynamo.reset()
    graphs: list[object] = []

    def noting(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph

    plain, mine = Embedding(tower()), Embedding(tower())
    assert mine.compile(Compiled(tower(), static=static, backend=noting)) > 0
    assert len(graphs) == 3
    for pictures, captions, size in ((3, 2, 64), (5, 1, 2), (9, 3, 64)):
        assert_near(embedded(mine, pictures, captions, size), embedded(plain, pictures, captions, size))
    assert (len(graphs) == 3) is not static


def test_computing_goes_on_where_nothing_can_be_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()

    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    mine = Embedding(tower())
    assert mine.compile(Compiled(tower(), backend=broken)) == 0
    assert (
        "torch.compile does not work here, so computing without; --compile off is quicker then: "
        in capsys.readouterr().err
    )
    assert_near(embedded(mine), embedded(Embedding(tower())))
