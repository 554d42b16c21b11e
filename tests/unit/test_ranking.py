"""Recall computed by hand on a dozen pairs, and block by block against all scores at once."""

import numpy as np
import pytest

from pipeline.evaluation import ranking
from pipeline.evaluation.ranking import Figures, Side, nearest, own, reranked

# Cosines of twelve captions (rows; three of each picture) with four pictures.
COSINES = np.array(
    [
        [0.9, 0.5, 0.2, 0.3],  # of picture 0: first
        [0.5, 0.6, 0.2, 0.1],  # second, after picture 1
        [0.4, 0.4, 0.1, 0.1],  # as near to picture 1: counts as second
        [0.5, 0.1, 0.0, 0.2],  # of picture 1: third
        [0.3, 0.2, 0.6, 0.5],  # fourth
        [0.2, 0.3, 0.1, 0.0],  # first
        [0.1, 0.4, 0.7, 0.6],  # of picture 2: first
        [0.1, 0.4, 0.1, 0.8],  # as near to picture 0, and behind two: fourth
        [0.2, 0.4, 0.5, 0.3],  # first
        [0.0, 0.1, 0.3, 0.6],  # of picture 3: first
        [0.1, 0.2, 0.6, 0.5],  # second
        [0.3, 0.2, 0.1, 0.4],  # first
    ],
    dtype=np.float32,
)
# The best own caption of picture 0 (0.9) is first of all twelve; of picture 1 (0.3) behind 0.6, 0.5 and 0.4 four times:
# seventh; of picture 2 (0.7) first; of picture 3 (0.6) behind 0.8 and beside 0.6, which counts: third.
PICTURES = Side(np.eye(4, dtype=np.float32), np.arange(4))
CAPTIONS = Side(COSINES, np.repeat(np.arange(4), 3))


def found(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    ir = own(nearest(CAPTIONS, PICTURES, count), CAPTIONS, PICTURES)
    return ir, own(nearest(PICTURES, CAPTIONS, count), PICTURES, CAPTIONS)


def test_recall_of_a_dozen_pairs_is_as_computed_by_hand() -> None:
    ir, tr = found()
    assert (np.argmax(ir, axis=1) + 1).tolist() == [1, 2, 2, 3, 4, 1, 1, 4, 1, 1, 2, 1]
    assert (np.argmax(tr, axis=1) + 1).tolist() == [1, 7, 1, 3]
    figures = Figures.of(ir, tr)
    assert figures.ir == pytest.approx((100 * 6 / 12, 100, 100))
    assert figures.tr == pytest.approx((50, 75, 100))
    assert figures.rsum == pytest.approx(50 + 100 + 100 + 50 + 75 + 100)
    assert [*figures.to_dict()] == ["IR@1", "IR@5", "IR@10", "TR@1", "TR@5", "TR@10", "RSUM"]


def test_rerank_of_a_dozen_pairs_is_as_computed_by_hand() -> None:
    ir, tr = found()
    # Of each caption's two nearest pictures the second matches better, but once both match alike.
    margins = np.tile(np.array([0.0, 1.0], np.float32), (12, 1))
    margins[1] = (3.0, 3.0)
    #        first by ITC   second: becomes first   third and later: stay
    wanted = [2, 2, 1, 3, 4, 2, 2, 4, 2, 2, 1, 2]
    assert (np.argmax(reranked(ir, margins, 1e-4), axis=1) + 1).tolist() == wanted
    # The three nearest captions of each picture are turned round: of picture 0 two of them are its own.
    turned = reranked(tr, np.tile(np.array([-1.0, 0.0, 1.0], np.float32), (4, 1)), 1e-4)
    assert (np.argmax(turned, axis=1) + 1).tolist() == [1, 7, 3, 1]
    assert Figures.of(ir, turned).tr == pytest.approx((50, 75, 100))


def test_ties_never_flatter() -> None:
    """A model that gives everything one vector finds nothing."""
    same = np.tile(np.array([0.6, 0.8], np.float32), (40, 1))
    pictures, captions = Side(same, np.arange(40)), Side(same, np.arange(40))
    ir = own(nearest(captions, pictures, 10), captions, pictures)
    assert Figures.of(ir, ir).rsum == 0
    close = captions.vectors + np.linspace(0, 1e-7, 40, dtype=np.float32)[:, None]  # less than float32 tells apart
    assert not own(nearest(Side(close, captions.image), pictures, 10), captions, pictures).any()
    everywhere = np.arange(10)[None] == np.arange(10)[:, None]  # the own one at every place
    ranks = np.argmax(reranked(everywhere, np.zeros((10, 10), np.float32), 1e-4), axis=1)
    assert ranks.tolist() == [9] * 10


@pytest.mark.parametrize("count", [1, 10, 500])
def test_blocks_find_what_all_scores_at_once_do(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(ranking, "_QUERIES", 7)
    monkeypatch.setattr(ranking, "_ITEMS", 13)
    rng = np.random.default_rng(0)
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 300, 16)).astype(np.float32)]
    pictures = Side(vectors[0][:60], np.arange(60))
    captions = Side(vectors[1], rng.integers(0, 60, 300))
    for queries, items in ((captions, pictures), (pictures, captions)):
        scores = queries.vectors @ items.vectors.T
        wanted = np.argsort(-scores, axis=1)[:, :count]
        places = nearest(queries, items, count)
        assert places.shape == (len(queries.image), min(count, len(items.image)))
        np.testing.assert_array_equal(places, wanted)
