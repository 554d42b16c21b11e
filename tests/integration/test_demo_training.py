"""Training of the demo model: what is true by accident is no negative, figures are what they say, and a step learns."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import BridgeTowerConfig

from demo import train
from demo.architecture import MAX_TOKENS, write_preprocessing
from demo.captions import words
from demo.data import Batcher, Pool, alter
from demo.losses import contrastive, hard_images, losses, tower_losses
from demo.measure import auc, measure, recall
from demo.scaffold import Scaffold, weight
from demo.scenes import generator, random_claim
from demo.truth import truth
from model.bridgetower import BridgeTower
from model.prepare import Preparer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_preprocessing(folder)
    return folder


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return Pool.drawn(folder, pairs=16, seed=1, processes=1)


def test_tokenizer_has_every_word_as_one_token_at_the_start_and_after_a_space(folder: Path) -> None:
    prepare = Preparer.from_folder(folder)
    for word in words():
        for form in (word, " " + word):
            ((ids, _),) = prepare.captions([form])
            assert len(ids) == 3, form


def test_tokenizer_cuts_at_the_models_limit(folder: Path) -> None:
    ((ids, cut),) = Preparer.from_folder(folder).captions(["red " * 200])
    assert (len(ids), cut) == (MAX_TOKENS, True)


def test_alter_never_gives_a_claim_that_is_still_true() -> None:
    rng = generator(1)
    for _ in range(300):
        claim = random_claim(rng)
        assert not truth([alter(claim, rng)], [claim])[0, 0]


def test_pool_holds_mates_that_differ_in_one_thing(pool: Pool) -> None:
    assert pool.pictures.shape == (32, 64, 64, 3)
    for first, mate in zip(pool.claims[::2], pool.claims[1::2], strict=True):
        assert not truth([first], [mate])[0, 0]


def test_batch_is_the_same_from_the_same_seed_and_tells_what_is_true(pool: Pool, folder: Path) -> None:
    prepare = Preparer.from_folder(folder)
    one, two = (Batcher(pool, prepare, 8, seed=3).batch(50) for _ in range(2))
    for name, value in vars(one).items():
        assert torch.equal(value, vars(two)[name]), name
    assert one.true[:8].diagonal().all()
    assert not one.true[8:].diagonal().any()
    assert ((one.targets >= 0).sum(1) >= 1).all()
    masked = one.ids[16:] == prepare.token("<mask>")
    assert torch.equal(masked, one.targets >= 0)
    assert torch.equal(one.ids[:8][masked], one.targets[masked])


def test_contrastive_ignores_what_is_true_by_accident() -> None:
    logits, true = torch.zeros(4, 2), torch.eye(2, dtype=torch.bool).repeat(2, 1)
    true[2:] = False
    alone = contrastive(logits, true)
    true[0, 1] = True
    assert contrastive(logits, true) < alone


def test_hard_images_are_never_true_ones() -> None:
    true = torch.eye(3, dtype=torch.bool)
    true[0, 1] = True
    torch.manual_seed(0)
    for _ in range(20):
        hard = hard_images(torch.randn(3, 3) * 5, true)
        assert not true[torch.arange(3), hard].any()


def test_scaffold_and_schedules_begin_and_end_where_they_should() -> None:
    assert weight(0.0) == weight(0.5) > weight(0.7) > weight(0.9) == 0.0
    assert (train.percent_canonical(0.0), train.percent_canonical(1.0)) == (90, 50)
    assert train.learning_rate(0, 0.0, 1.0) < train.learning_rate(1000, 0.5, 1.0) == 1.0
    assert train.learning_rate(1000, 1.0, 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("step", [tower_losses, losses])
def test_a_step_gives_finite_losses_and_gradients(step: train.Step, pool: Pool, folder: Path) -> None:
    torch.manual_seed(0)
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder))
    scaffold = Scaffold(model)
    batch = Batcher(pool, Preparer.from_folder(folder), 8, seed=3).batch(50)
    found = step(model, batch, lambda text, images: scaffold.loss(text, images, batch))
    assert all(value.isfinite() for value in vars(found).values())
    found.total.backward()  # type: ignore[no-untyped-call]
    towers = [p.grad for name, p in model.named_parameters() if "itc_text" in name or "patch_embedding" in name]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in towers)


def test_cross_loss_teaches_the_cross_head_alone(pool: Pool, folder: Path) -> None:
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder))
    batch = Batcher(pool, Preparer.from_folder(folder), 8, seed=3).batch(50)
    losses(model, batch, lambda text, images: text.layers[0].new_zeros(())).cross.backward()  # type: ignore[no-untyped-call]
    learnt = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"itc_cross_modal_head.fc.weight", "itc_cross_modal_head.fc.bias"}


def floats(values: list[Any]) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def test_auc_is_the_chance_that_a_positive_scores_higher() -> None:
    assert auc(floats([2, 3]), floats([0, 1])) == 1.0
    assert auc(floats([1, 1]), floats([1, 1])) == 0.5
    assert auc(floats([0, 2]), floats([1])) == 0.5


def test_recall_counts_rows_with_something_relevant_on_top() -> None:
    scores, relevant = floats([[3, 2, 1], [1, 2, 3]]), np.array([[True, False, False], [True, True, False]])
    assert recall(scores, relevant, 1) == 0.5
    assert recall(scores, relevant, 2) == 1.0


def test_measure_of_an_untrained_model_is_near_chance(folder: Path) -> None:
    torch.manual_seed(0)
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder)).eval()
    figures = measure(model, Preparer.from_folder(folder), seed=9, count=30, rerank=5)
    assert figures.itc_r1 < 0.3
    assert 0.2 < figures.auc_relation < 0.8
    assert figures.masked_shape < 0.5


def test_save_writes_half_floats_that_everyone_may_read(folder: Path) -> None:
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder))
    train.save(model, folder)
    weights = folder / "model.safetensors"
    assert weights.stat().st_mode & 0o777 == 0o644
    assert weights.stat().st_size < 8 * 2**20
    assert model.dtype == torch.float32
