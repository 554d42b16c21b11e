"""Linear layers in float8: what they compute, which they are, and how near a whole tower with them stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import model
from bridgelake import DEFAULT_MODEL
from bridgelake.wiring import Embedder
from demo.draw import draw
from demo.pack import sample
from model.bridgetower import BridgeTower
from model.checkpoint import load_tower
from model.compiled import Compiled
from model.embedding import Embedding, Embeddings
from model.encoder import Encoder
from model.errors import ModelError
from model.fp8 import Scaled, quantise
from model.prepare import Preparer
from tests.checkpoints import config
from tests.typed import typed


def rounded(x: Tensor) -> Tensor:
    """What float8 keeps of each row: its largest value stands for 448, float8's own."""
    scale = x.float().abs().amax(-1, keepdim=True) / 448
    return (x.float() / scale).to(torch.float8_e4m3fn).float() * scale


def linear(rows: int = 40, seed: int = 0) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(48, 32).requires_grad_(False), torch.randn(2, rows, 48).bfloat16()


def test_scaled_layer_multiplies_the_rounded_numbers_and_adds_the_bias() -> None:
    plain, x = linear()
    found = Scaled(plain.weight, plain.bias)(x)
    wanted = rounded(x) @ rounded(plain.weight).T + plain.bias.bfloat16().float()
    assert (found.shape, found.dtype) == ((2, 40, 32), torch.bfloat16)
    torch.testing.assert_close(found.float(), wanted, rtol=2**-8, atol=1e-5)
    off = (found.float() - plain(x.float())).norm() / plain(x.float()).norm()
    assert 0.01 < off < 0.05


def test_each_token_and_each_output_has_a_scale_of_its_own() -> None:
    """With one for all, what is 100,000 times smaller would be rounded to nothing."""
    plain, x = linear()
    plain.bias.zero_()
    plain.weight[3] *= 1e-5
    x[0, 7] *= 1e-5
    found, wanted = Scaled(plain.weight, plain.bias)(x).float(), plain(x.float())
    for mine, theirs in ((found[0, 7], wanted[0, 7]), (found[..., 3], wanted[..., 3])):
        assert (mine - theirs).norm() < 0.05 * theirs.norm()


def test_token_of_zeros_gives_the_bias_and_one_that_is_not_finite_spoils_itself_alone() -> None:
    plain, x = linear()
    layer, whole = Scaled(plain.weight, plain.bias), Scaled(plain.weight, plain.bias)(x)
    x[0, 0], x[0, 1, 5], x[1, 2, 5] = 0, torch.inf, torch.nan
    found = layer(x)
    assert torch.equal(found[0, 0], plain.bias.bfloat16())
    assert found[0, 1].isnan().all()
    assert found[1, 2].isnan().all()
    assert torch.equal(found[0, 2:], whole[0, 2:])
    assert torch.equal(found[1, 3:], whole[1, 3:])


def tower(layers: int = 2, **text: int) -> BridgeTower:
    depth = {"num_hidden_layers": layers}
    torch.manual_seed(0)
    made = BridgeTower(config(text={**depth, **text}, vision=depth, **depth)).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return made.cast(torch.bfloat16)


def test_linear_layers_of_towers_and_fusion_are_scaled_and_poolers_and_heads_are_not() -> None:
    plain, mine = tower(), tower()
    quantise(mine.bridgetower)
    was = {name for name, m in plain.named_modules() if isinstance(m, nn.Linear)}
    scaled = {name for name, m in mine.named_modules() if isinstance(m, Scaled)}
    left = {name for name, m in mine.named_modules() if isinstance(m, nn.Linear)}
    projections = {f"bridgetower.vision_model.visual.transformer.resblocks.{i}.attn.in_projection" for i in (0, 1)}
    assert scaled - was == projections
    assert left == was - scaled
    assert {name for name in left if name.startswith("bridgetower")} == {
        "bridgetower.text_model.pooler.dense",  # never run
        "bridgetower.cross_modal_text_pooler.dense",
        "bridgetower.cross_modal_image_pooler.dense",
    }
    assert "bridgetower.cross_modal_image_transform" in scaled
    kinds = {p.dtype for p in mine.parameters()}
    assert kinds == {torch.float8_e4m3fn, torch.bfloat16, torch.float32}


def test_layers_whose_sides_the_kernels_do_not_take_stay_plain() -> None:
    mine = tower(intermediate_size=100)
    quantise(mine.bridgetower)
    left = {name for name, m in mine.bridgetower.text_model.encoder.named_modules() if isinstance(m, nn.Linear)}
    assert left == {f"layer.{i}.{part}.dense" for i in (0, 1) for part in ("intermediate", "output")}


def embedded(embedding: Embedding, pictures: int = 3, captions: int = 2) -> Embeddings:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (pictures, 64, 64, 3), dtype=np.uint8)
    ids = [rng.integers(5, 300, int(length)).tolist() for length in rng.integers(3, 30, pictures * captions)]
    return embedding(pixels, ids, np.repeat(np.arange(pictures), captions), 64)


def test_scaled_tower_is_compiled_into_one_graph_a_stage_whatever_a_batch_holds() -> None:
    """A break in a graph is where the host would wait for the device, or a shape follow from the data."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def noting(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph

    made = tower(layers=1)
    quantise(made.bridgetower)
    plain, mine = Embedding(made), Embedding(made)
    assert mine.compile(Compiled(made, backend=noting)) > 0
    for pictures, captions in ((3, 2), (9, 3)):
        found, wanted = embedded(mine, pictures, captions), embedded(plain, pictures, captions)
        for one, other in zip(found[:3], wanted[:3], strict=True):
            assert (one * other).sum(-1).min() > 0.999
    assert len(graphs) == 3


def demo(dtype: str) -> Encoder:
    folder = Path(DEFAULT_MODEL)
    preparer = Preparer.from_folder(folder)
    made = load_tower(folder, preparer, ("itc", "itm"))
    if dtype == "fp8":
        quantise(made.cast(torch.bfloat16).bridgetower)
    return Encoder(made, preparer)


def seen(encoder: Encoder, exactly: bool = False) -> Embeddings:
    drawn = [sample(101, index, "") for index in range(24)]
    pixels = np.stack([encoder.preparer.picture(draw(one.scene)) for one in drawn])
    ids = [ids for ids, _ in encoder.preparer.captions([one.captions[0] for one in drawn])]
    return (encoder.embed_exactly if exactly else encoder.embed)(pixels, ids, list(range(24)))


def cosines(one: Embeddings, other: Embeddings) -> np.ndarray:
    return np.stack([(getattr(one, n) * getattr(other, n)).sum(-1) for n in ("image", "text", "cross")])


def test_float8_embeddings_of_the_demo_checkpoint_are_near_float32s() -> None:
    small = demo("fp8")
    exact, found = seen(demo("float32")), seen(small)
    assert 0.99 < cosines(exact, found).min() < 0.99999
    np.testing.assert_allclose(np.linalg.norm(found.cross, axis=-1), 1, atol=1e-5)
    assert np.abs(exact.itm_score - found.itm_score).mean() < 0.01
    # What is not finite is told exactly, by a copy with the rounded weights but whole activations.
    near = seen(small, exactly=True)
    assert cosines(exact, near).mean() > cosines(exact, found).mean()
    assert Embedder(small).dtype == "fp8"
    assert small._exact
    assert small._exact.dtype == "float32"
    assert not any(isinstance(m, Scaled) for m in small._exact.tower.modules())


def test_float8_on_a_cpu_is_refused_by_the_model_and_by_the_job(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--dtype fp8 on a CPU: it needs a GPU .* use --dtype bfloat16"):
        model.load(model.resolve(DEFAULT_MODEL), "cpu", "fp8")
    where = ("--input", str(tmp_path), "--db", str(tmp_path / "lake"))
    done = typed("embed_laion", *where, "--dtype", "fp8", "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: --dtype 'fp8' is not valid: allowed is auto, float32 or bfloat16 with --device"
    )
