"""Prepared batches -> embedded pairs, with a model whose answers can be computed by hand."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.calls import Inputs
from pipeline.embed import Embeddings, Pixels, Vectors, embed_batch, require_sane
from pipeline.errors import ClusterError, ContractError
from pipeline.schema import Kind
from pipeline.stored import Stored
from tests.blocks import STORED, end, prepared, reject, sample
from tests.fakes import FakeEmbedder, FakeEmbeddings


def pairs_of(table: pa.Table) -> list[dict[str, object]]:
    return [r for r in table.to_pylist() if r["kind"] == Kind.PAIR]


class Spoiled(FakeEmbedder):
    """Spoils one array at one place, also of a pair alone if it is `beyond` help."""

    def __init__(self, name: str, at: int, value: float, *, beyond: bool = True) -> None:
        super().__init__()
        self.spoil = (name, at, value)
        self.beyond = beyond
        self.alone: list[tuple[int, list[list[int]], list[int]]] = []  # value of the picture, tokens, image_of

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        name, at, value = self.spoil
        return self._with(name, at, value, super().embed(pixels, token_ids, image_of))

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        self.alone.append((int(pixels[0, 0, 0, 0]), token_ids, image_of))
        made = super().embed_exactly(pixels, token_ids, image_of)
        name, _, value = self.spoil
        return self._with(name, 0, value, made) if self.beyond else made

    def _with(self, name: str, at: int, value: float, made: FakeEmbeddings) -> FakeEmbeddings:
        array: Vectors = getattr(made, name).copy()
        array[at] = value
        return replace(made, **{name: array})


def test_embed_gives_the_vectors_that_a_person_computes() -> None:
    batch = prepared(sample("a", 0, 1, "one"), sample("b", 7, 2, "one"))
    one, two = pairs_of(embed_batch(batch, FakeEmbedder(), STORED, 8))
    assert (one["image_embedding"], one["text_embedding"]) == ([0, 1, 0, 0], [0, 1, 0, 0])
    assert (one["itc_score"], one["itm_score"]) == (1.0, 0.75)
    assert (two["image_embedding"], two["text_embedding"]) == ([0, 0, 1, 0], [0, 1, 0, 0])
    assert (two["itc_score"], two["itm_score"]) == (0.0, 0.25)
    assert two["cross_embedding"] == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0], abs=1e-3)
    assert [(r["slice"], r["attempt"], r["position"], r["key"]) for r in (one, two)] == [
        ("a", "a", 0, "0"),
        ("b", "b", 7, "7"),
    ]


def test_embed_gives_each_caption_its_own_pair_and_the_picture_once() -> None:
    embedder = FakeEmbedder()
    batch = prepared(sample("a", 0, 1, "one", "two words", "now three words"), sample("a", 3, 2, "x y"))
    rows = pairs_of(embed_batch(batch, embedder, STORED, 8))
    assert embedder.calls == [2]
    assert [r["position"] for r in rows] == [0, 1, 2, 3]
    assert [r["caption_index"] for r in rows] == [0, 1, 2, 0]
    assert [r["caption"] for r in rows] == ["one", "two words", "now three words", "x y"]
    assert [np.argmax(r["image_embedding"]) for r in rows] == [1, 1, 1, 2]
    assert [np.argmax(r["text_embedding"]) for r in rows] == [1, 2, 3, 2]


def test_embed_encodes_a_picture_once_that_comes_in_several_samples() -> None:
    embedder = FakeEmbedder()
    rows = [sample("a", i, i % 2, "word " * (i + 1), sha256="one" if i % 2 else "other") for i in range(4)]
    made = pairs_of(embed_batch(prepared(*rows, sample("a", 4, 3, "x"), end("a", 5)), embedder, STORED, 8))
    assert embedder.calls == [3]
    found = {r["position"]: (np.argmax(r["image_embedding"]), np.argmax(r["text_embedding"]), r["key"]) for r in made}
    assert found == {i: (i % 2, (i + 1) % 4, str(i)) for i in range(4)} | {4: (3, 1, "4")}


@pytest.mark.parametrize(("pictures", "calls"), [(0, []), (1, [1]), (4, [4]), (5, [2, 3]), (9, [3, 3, 3])])
def test_embed_splits_a_batch_into_calls_of_about_equal_size(
    pictures: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.embed.time", SimpleNamespace(perf_counter=count().__next__, time=time.time))
    embedder = FakeEmbedder()
    batch = prepared(*(sample("a", i, i, "word " * (i % 3 + 1)) for i in range(pictures)), end("a", pictures))
    made = embed_batch(batch, embedder, STORED, 4)
    assert embedder.calls == calls
    told = [(r["pairs"], r["seconds"]) for r in made.to_pylist() if r["kind"] == Kind.CALL]
    assert told == [(n, 1) for n in calls]  # the clock was looked at before and after
    rows = pairs_of(made)
    assert [np.argmax(r["image_embedding"]) for r in rows] == [i % 4 for i in range(pictures)]
    assert [np.argmax(r["text_embedding"]) for r in rows] == [i % 3 + 1 for i in range(pictures)]


def test_embed_is_the_same_for_a_batch_in_several_chunks() -> None:
    rows = [sample("a", 2 * i, i, "one", "one two") for i in range(6)]
    chunked = pa.concat_tables([prepared(*rows[:1]), prepared(*rows[1:4]), prepared(end("a", 12), *rows[4:])])
    whole, pieces = (pairs_of(embed_batch(b, FakeEmbedder(), STORED, 4)) for b in (prepared(*rows), chunked))
    assert whole == pieces


def test_embed_passes_rejects_and_ends_through() -> None:
    made = embed_batch(prepared(reject("a", 3), end("a", 4), end("b", None, "cut")), FakeEmbedder(), STORED, 4)
    rows = made.to_pylist()
    assert [r["kind"] for r in rows] == [Kind.REJECT, Kind.END, Kind.END]
    assert (rows[0]["position"], rows[0]["reason"], rows[0]["detail"]) == (3, "undecodable", "by hand")
    assert [(r["pairs"], r["detail"]) for r in rows[1:]] == [(4, None), (None, "cut")]
    assert made.schema == STORED.schema


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("image", np.nan, "image_embedding has length nan"),
        ("text", np.inf, "text_embedding has length inf"),
        ("cross", 0.0, "cross_embedding has length 0.0"),
        ("cross", 0.6, "cross_embedding has length 1.2"),
        ("itc_score", np.nan, "itc_score is nan"),
        ("itm_score", -np.inf, "itm_score is -inf"),
    ],
)
def test_embed_rejects_a_pair_whose_numbers_cannot_be_stored(name: str, value: float, detail: str) -> None:
    batch = prepared(sample("a", 0, 1, "one", "two words"), sample("a", 2, 1, "one"))
    made = embed_batch(batch, Spoiled(name, 1, value), STORED, 8).to_pylist()
    assert [r["kind"] for r in made] == [Kind.PAIR, Kind.REJECT, Kind.PAIR, Kind.CALL]
    bad = made[1]
    assert (bad["position"], bad["stage"], bad["reason"]) == (1, "embed", "not_finite")
    assert bad["detail"].startswith(detail)
    assert made[0]["reason"] is made[0]["detail"] is made[0]["stage"] is None


def test_embed_tries_a_broken_pair_once_alone_in_float32_and_keeps_what_that_gives() -> None:
    samples = [sample("a", 0, 1, "one", "two words"), sample("a", 2, 2, "now three words")]
    embedder = Spoiled("text", 1, np.nan, beyond=False)
    whole = embed_batch(prepared(*samples), FakeEmbedder(), STORED, 8)
    mended = embed_batch(prepared(*samples), embedder, STORED, 8)
    assert embedder.alone == [(1, [[3, 5]], [0])]
    assert pairs_of(mended) == pairs_of(whole)
    assert len(pairs_of(mended)) == 3


class Ahead(Spoiled):
    """As a GPU's, has two calls when it gives the first one's results. They take 1, 2, ... seconds, a pair alone 0.25.

    The second pair of each call is spoiled, but not alone.
    """

    def __init__(self) -> None:
        super().__init__("text", 1, np.nan, beyond=False)
        self.clock = 0.0
        self.under_way = deque[tuple[Embeddings, float]]()

    def embed_each(self, calls: Iterable[Inputs]) -> Iterator[tuple[Embeddings, float]]:
        for seconds, call in enumerate(calls, 1):
            self.under_way.append((self.embed(*call), float(seconds)))
            if len(self.under_way) > 1:
                yield self.under_way.popleft()
        while self.under_way:
            yield self.under_way.popleft()

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        assert not self.under_way  # what it takes would be in their seconds too
        self.clock += 0.25
        return super().embed_exactly(pixels, token_ids, image_of)


def test_embed_gives_each_call_its_own_rows_and_seconds_where_the_model_runs_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder = Ahead()
    monkeypatch.setattr("pipeline.embed.time", SimpleNamespace(perf_counter=lambda: embedder.clock, time=time.time))
    batch = prepared(*(sample("a", i, i, "word " * (i % 3 + 1)) for i in range(6)))
    made = embed_batch(batch, embedder, STORED, 2)
    assert pairs_of(made) == pairs_of(embed_batch(batch, FakeEmbedder(), STORED, 6))
    assert embedder.alone == [(i, [[4] * (i % 3 + 1)], [0]) for i in (1, 3, 5)]
    assert [r["seconds"] for r in made.to_pylist() if r["kind"] == Kind.CALL] == [1.25, 2.25, 3.25]


def test_embed_says_of_a_reject_what_was_wrong_both_times() -> None:
    made = embed_batch(prepared(sample("a", 0, 1, "one")), Spoiled("cross", 0, 0.6), STORED, 8).to_pylist()
    assert made[0]["detail"] == (
        "cross_embedding has length 1.2000000476837158, not 1; "
        "alone in float32, cross_embedding has length 1.2000000476837158, not 1"
    )


def test_embed_tells_after_each_call_how_many_there_were() -> None:
    told: list[int] = []
    embed_batch(prepared(*(sample("a", i, i, "one") for i in range(9))), FakeEmbedder(), STORED, 4, told.append)
    assert told == [1, 2, 3]


def test_embed_refuses_a_model_that_cannot_embed_a_plain_pair() -> None:
    plain = (np.ones((1, 2, 2, 3), np.uint8), [[3]], [0])
    require_sane(FakeEmbedder().embed(*plain))
    with pytest.raises(ClusterError, match="text_embedding has length nan, not 1: look at the GPU"):
        require_sane(Spoiled("text", 0, np.nan).embed(*plain))


@pytest.mark.parametrize(("off", "kept"), [(0.9e-5, True), (1.2e-5, False), (-1.2e-5, False)])
def test_embed_checks_lengths_in_float32_before_they_are_rounded(off: float, kept: bool) -> None:
    """float16 could not tell these apart."""
    units = np.eye(4, dtype=np.float32) * np.float32(1 + off)

    class Off(FakeEmbedder):
        def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
            return replace(super().embed(pixels, token_ids, image_of), image=units[:1])

        embed_exactly = embed

    (row, _) = embed_batch(prepared(sample("a", 0, 1, "one")), Off(), STORED, 8).to_pylist()
    assert (row["kind"] == Kind.PAIR) == kept


@pytest.mark.parametrize(("dimension", "pairs"), [(5, 1), (4, 2)])
def test_embed_refuses_a_model_of_another_shape(dimension: int, pairs: int) -> None:
    class Other(FakeEmbedder):
        def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
            return replace(super().embed(pixels, token_ids, image_of), text=np.ones((pairs, dimension), np.float32))

    with pytest.raises(ContractError, match=rf"text_embedding of shape \({pairs}, {dimension}\) for 1 pairs of dim"):
        embed_batch(prepared(sample("a", 0, 1, "one")), Other(), STORED, 8)


def test_embed_leaves_out_a_vector_that_was_not_asked_for_and_stores_float32_on_request() -> None:
    stored = Stored(("text",), 4, "float32", ())
    made = embed_batch(prepared(sample("a", 0, 1, "one")), FakeEmbedder(), stored, 8)
    assert made.schema == stored.schema
    assert made.schema.field("text_embedding").type == pa.list_(pa.float32(), 4)
    assert not {"image_embedding", "cross_embedding"} & set(made.column_names)


def test_fake_embedder_is_an_embedder() -> None:
    made: Embeddings = FakeEmbedder().embed(np.ones((1, 2, 2, 3), np.uint8), [[3]], [0])
    np.testing.assert_array_equal(made.image, [[0, 1, 0, 0]])
