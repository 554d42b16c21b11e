"""Training of the demo model: what is true by accident is no negative, figures are what they say, and a step learns."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import BridgeTowerConfig

from demo import architecture, train
from demo.architecture import MAX_TOKENS, write_preprocessing
from demo.captions import JOINING, told, vaguer, words
from demo.data import UNSAID, Batcher, Pool, alter, mates
from demo.losses import contrastive, hard_images, losses, tower_losses
from demo.measure import auc, measure, recall
from demo.place import random_scene
from demo.scaffold import Scaffold, weight
from demo.scenes import generator, is_true
from model.bridgetower import BridgeTower
from model.prepare import Preparer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_preprocessing(folder)
    return folder


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return Pool.drawn(folder, pairs={2: 16, 3: 16}, seed=1, processes=1)


def test_tokenizer_has_every_word_as_one_token_at_the_start_and_after_a_space(folder: Path) -> None:
    prepare = Preparer.from_folder(folder)
    for word in (*words(), *JOINING):
        for form in (word, " " + word):
            ((ids, _),) = prepare.captions([form])
            assert len(ids) == 3, form


def test_tokenizer_cuts_at_the_models_limit(folder: Path) -> None:
    ((ids, cut),) = Preparer.from_folder(folder).captions(["red " * 200])
    assert (len(ids), cut) == (MAX_TOKENS, True)


def test_words_of_three_objects_leave_the_numbers_of_all_others_as_they_are() -> None:
    bpe = architecture.tokenizer()
    before = bpe.get_vocab()
    after = architecture.with_words(bpe, ("between",)).get_vocab()
    assert {word: after[word] for word in before} == before
    assert after["between"] >= len(before)


def test_alter_never_gives_a_claim_that_is_still_true() -> None:
    rng = generator(1)
    for index in range(300):
        scene = random_scene(1, index, 2 + index % 2)
        claim = vaguer(told(scene, rng), rng)
        assert not is_true(alter(claim, scene, rng), scene)


def test_pool_holds_mates_that_differ(pool: Pool) -> None:
    assert pool.pictures.shape == (64, 64, 64, 3)
    assert [len(scene.objects) for scene in pool.scenes] == [2] * 32 + [3] * 32
    for first, mate in zip(pool.scenes[::2], pool.scenes[1::2], strict=True):
        assert any(not is_true(claim, mate) for claim in first.claims)


def test_mates_of_three_objects_of_the_same_sizes_stand_in_the_same_places() -> None:
    same = 0
    for index in range(60):
        first, mate = mates(5, index, 3)
        places = [[(one.x, one.y, one.thing.size) for one in scene.objects] for scene in (first, mate)]
        same += places[0] == places[1]
    assert 15 < same < 60


def test_batch_is_the_same_from_the_same_seed_and_tells_what_is_true(pool: Pool, folder: Path) -> None:
    prepare = Preparer.from_folder(folder)
    one, two = (Batcher(pool, prepare, 8, seed=4).batch(50) for _ in range(2))
    for name, value in vars(one).items():
        assert torch.equal(value, vars(two)[name]), name
    assert one.true[:8].diagonal().all()
    assert not one.true[8:].diagonal().any()
    assert ((one.targets >= 0).sum(1) >= 1).all()
    masked = one.ids[16:] == prepare.token("<mask>")
    assert torch.equal(masked, one.targets >= 0)
    assert torch.equal(one.ids[:8][masked], one.targets[masked])


def test_batch_tells_the_scaffold_of_the_objects_there_are_and_of_claims_about_two(pool: Pool, folder: Path) -> None:
    batch = Batcher(pool, Preparer.from_folder(folder), 32, seed=3).batch(50)
    third, axes = batch.shown[:, 6:9], batch.shown[:, 9:]
    two = (third == UNSAID).all(1)
    assert 0 < two.sum() < 32
    assert torch.equal((axes == UNSAID).sum(1), torch.where(two, 2, 0))
    assert (batch.shown[:, :6] >= 0).all()
    assert (batch.said[:, 6:9] == UNSAID).all()
    assert (batch.said[:, 0] >= 0).any()


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


def test_training_goes_on_from_an_earlier_checkpoint_with_fewer_words(folder: Path, tmp_path: Path) -> None:
    config = BridgeTowerConfig.from_pretrained(folder)
    config.text_config.vocab_size -= 3
    earlier = BridgeTower(config)
    earlier.save_pretrained(tmp_path)
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder))
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    train.start_from(model, tmp_path)
    grown = set()
    for name, known in earlier.state_dict().items():
        value = model.state_dict()[name]
        if value.shape == known.shape:
            assert torch.equal(value, known), name
            continue
        grown.add(name)
        assert torch.equal(value[: len(known)], known), name
        assert torch.equal(value[len(known) :], fresh[name][len(known) :]), name
    assert len(grown) == 3  # the text's embedding, and the MLM head's weights and biases


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


@pytest.mark.parametrize("objects", [2, 3])
def test_measure_of_an_untrained_model_is_near_chance(folder: Path, objects: int) -> None:
    torch.manual_seed(0)
    model = BridgeTower(BridgeTowerConfig.from_pretrained(folder)).eval()
    scenes = [random_scene(9, index, objects) for index in range(30)]
    figures = measure(model, Preparer.from_folder(folder), 9, scenes, rerank=5)
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
