"""torch.compile as a run asks for it: on GPUs unless told otherwise, on a CPU where told so."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from bridgelake.wiring import as_model
from jobs.options import ComputeOptions
from model import Extras, encoder, packed
from model.compiled import Compiled
from tests.checkpoints import pictures
from tests.stock import ids, squares


@pytest.fixture
def eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles the stages to what they are, with a cache that is the test's own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(encoder, "Compiled", partial(Compiled, backend="eager"))


@pytest.mark.parametrize(
    ("asked", "device", "compiles"),
    [("auto", "cuda", True), ("auto", "cpu", False), ("on", "cpu", True), ("on", "cuda", True), ("off", "cuda", False)],
)
def test_stages_are_compiled_on_gpus_unless_told_otherwise(asked: str, device: str, compiles: bool) -> None:
    assert Extras(compile=asked).compiles(device) is compiles


@pytest.mark.usefixtures("eager")
def test_compile_reaches_the_actor_which_tells_the_seconds_and_embeds_the_same(checkpoint: Path) -> None:
    spec = model.resolve(str(checkpoint))
    plain, made = (
        as_model(spec, compile=ComputeOptions(compile=asked).config.compile).make_embedder("cpu", "float32", 8)
        for asked in ("auto", "on")
    )
    assert plain.footprint().compiled is None
    assert (made.footprint().compiled or 0) > 0
    loaded = made.encoder  # type: ignore[attr-defined]
    batch = squares(loaded, pictures(3)), ids(loaded, ["two cats", "a dog", "x"]), [0, 1, 2]
    np.testing.assert_allclose(made.embed(*batch).cross, plain.embed(*batch).cross, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("eager")
@pytest.mark.skipif(not packed.can_pack(torch.float32), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize(("asked", "packs"), [("auto", True), ("on", False)])
def test_weights_are_packed_unless_they_are_compiled_which_cannot_be_both(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, asked: str, packs: bool
) -> None:
    monkeypatch.setattr(packed, "_SMALLEST", 1)
    spec = model.resolve(str(checkpoint))
    loaded = model.load_for_batches(spec, "cpu", "float32", 8, 1.0, Extras(compile=asked))
    assert any(isinstance(layer, packed.Packed) for layer in loaded.tower.modules()) is packs
