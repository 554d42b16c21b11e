"""Words for pictures: made into two columns, kept whole with their rows, and refused where they cannot be stored."""

from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from jobs.options import TagOptions
from pipeline.config import Tagging
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.embed import Pixels, embed_batch
from pipeline.errors import ConfigError, ContractError
from pipeline.indexes.scalars import index_scalars
from pipeline.schema import TAGS_KEY, Kind, rows_schema, tagging_of
from pipeline.table import latest, open_or_create
from tests.blocks import LAYOUT, STORED, prepared, sample
from tests.fakes import WORDS, FakeEmbedder, FakeEmbeddings, FakeTags

TAGGED = replace(STORED, tags=Tagging(2))


class Spoiled(FakeEmbedder):
    """Gives NaN for the tags of the second pair; `alone` says whether of a pair by itself too."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone = alone

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        made = super().embed(pixels, token_ids, image_of)
        assert made.tags is not None
        made.tags.probabilities[1, 0] = np.nan
        return made

    def embed_exactly(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        made = super().embed_exactly(pixels, token_ids, image_of)
        return replace(made, tags=FakeTags([["alone", "x"]], np.float32([[np.nan if self.alone else 0.75, 0.25]])))


def test_tags_are_the_same_for_all_captions_of_a_picture() -> None:
    batch = prepared(sample("a", 0, 1, "one", "two words"), sample("a", 2, 3, "one"))
    made = embed_batch(batch, FakeEmbedder(), TAGGED, 8)
    assert made.schema == TAGGED.schema
    told = [(r["position"], r["tags"], r["tag_probabilities"]) for r in made.to_pylist() if r["kind"] == Kind.PAIR]
    of = {b: [WORDS[b], WORDS[(b + 1) % 4]] for b in (1, 3)}
    assert told == [(0, of[1], [0.5, 0.25]), (1, of[1], [0.5, 0.25]), (2, of[3], [0.5, 0.25])]


def test_tags_are_not_stored_unless_asked_for() -> None:
    made = embed_batch(prepared(sample("a", 0, 1, "one")), FakeEmbedder(), STORED, 8)
    assert not {"tags", "tag_probabilities"} & set(made.column_names)


@pytest.mark.parametrize("alone", [False, True])
def test_tags_that_are_not_finite_are_told_again_in_float32_or_reject_the_pair(alone: bool) -> None:
    batch = prepared(sample("a", 0, 1, "one", "two words"), sample("a", 2, 1, "one"))
    first, second, third = embed_batch(batch, Spoiled(alone), TAGGED, 8).to_pylist()[:3]
    assert first["tags"] == third["tags"] == [WORDS[1], WORDS[2]]
    if alone:
        assert (second["kind"], second["reason"]) == (Kind.REJECT, "not_finite")
        assert second["detail"].startswith("tag_probabilities is [ nan 0.25]; alone in float32, tag_probabilities is [")
    else:
        assert (second["kind"], second["tags"], second["tag_probabilities"]) == (
            Kind.PAIR,
            ["alone", "x"],
            [0.75, 0.25],
        )


def test_model_that_was_not_made_to_tell_tags_is_refused() -> None:
    class Silent(FakeEmbedder):
        def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
            return replace(super().embed(pixels, token_ids, image_of), tags=None)

    with pytest.raises(ContractError, match="the model gave no tags"):
        embed_batch(prepared(sample("a", 0, 1, "one")), Silent(), TAGGED, 8)


def test_table_remembers_what_its_tags_were_asked_for_also_where_they_came_later(tmp_path: Path) -> None:
    asked = Tagging(3, 'a "small" <mask>, naïve')
    schema = rows_schema((), STORED.vectors, STORED.dimension, STORED.storage, asked)
    whole, later = Database(str(tmp_path / "whole"), "laion"), Database(str(tmp_path / "later"), "laion")
    open_or_create(whole, Layout(schema, LAYOUT.contract))
    assert tagging_of(open_or_create(later, LAYOUT).schema) is None
    open_or_create(later, Layout(schema, LAYOUT.contract))
    for database in (whole, later):
        assert tagging_of(latest(database).schema) == asked
        open_or_create(database, LAYOUT)  # a run without tags


def test_column_of_that_name_that_is_the_users_own_tells_nothing() -> None:
    assert tagging_of(pa.schema([pa.field("tags", pa.string())])) is None
    assert tagging_of(pa.schema([pa.field("tags", pa.string(), metadata={TAGS_KEY: '{"count": 1}'})])) == Tagging(1)


def test_tags_are_indexed_and_rows_that_come_later_are_found_too(tmp_path: Path) -> None:
    tags = [None, [], ["cat"], ["dog", "cat"], ["it's"]] * 20
    rows = pa.table({"id": [str(i) for i in range(100)], "tags": pa.array(tags, pa.list_(pa.string()))})
    database = Database(str(tmp_path), "laion")
    lance.write_dataset(rows, database.path())
    (made,) = index_scalars(database, ("tags",))
    assert made.kind == "labellist"
    lance.write_dataset(rows, database.path(), mode="append")
    asked = {"array_has(tags, 'cat')": 80, "array_has(tags, 'it''s')": 40, "NOT array_has(tags, 'cat')": 80}
    dataset = latest(database).dataset
    assert {where: dataset.count_rows(filter=where) for where in asked} == asked
    assert "ScalarIndexQuery" in dataset.scanner(filter="array_has(tags, 'cat')").explain_plan()


def test_prompt_alone_is_refused_and_number_alone_takes_the_usual_one() -> None:
    assert TagOptions().config is None
    assert TagOptions(tags=5).config == Tagging(5, "a photo of a <mask>")
    assert TagOptions(tags=5, tag_prompt="a <mask>").config == Tagging(5, "a <mask>")
    with pytest.raises(ConfigError, match="--tag-prompt goes with --tags"):
        TagOptions(tag_prompt="a <mask>").config  # noqa: B018
