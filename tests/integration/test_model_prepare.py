"""Preprocessing against transformers' own processor: bit for bit, token for token."""

import copy
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.bridgetower.image_processing_pil_bridgetower import BridgeTowerImageProcessorPil

from model import ModelError
from model.geometry import Geometry
from model.prepare import Preparer
from pipeline.decode import decode
from tests.checkpoints import POSITIONS, config, tokenizer, write_surroundings
from tests.shards import encoded

BASE = Geometry(shortest=288, crop=288)
LARGE = Geometry(shortest=294, crop=294)
SMALL = Geometry(shortest=64, crop=64, divisor=16)
GEOMETRIES = {"base_288": BASE, "large_294": LARGE, "small_64": SMALL}
# height, width: odd, smaller than the crop, one pixel off it; up to 15:1 both ways, where 288 and 294 fit
# and 64 (divisor 16) does not.
SIZES = [
    (37, 53), (1, 1), (288, 288), (289, 287), (31, 449), (449, 31), (600, 40), (40, 600), (601, 333),
    (480, 640), (7, 9), (90, 570),
]  # fmt: skip


@cache
def preparer(geometry: Geometry) -> Preparer:
    return Preparer(geometry, tokenizer(), POSITIONS - 2)


@cache
def stock(geometry: Geometry) -> BridgeTowerImageProcessorPil:
    return BridgeTowerImageProcessorPil(
        size={"shortest_edge": geometry.shortest},
        crop_size={"shortest_edge": geometry.crop},
        size_divisor=geometry.divisor,
    )


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 10_007 + width)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise[: height // 2] //= 3  # edges that a bicubic filter overshoots
    return noise


def assert_identical(geometry: Geometry, rgb: np.ndarray) -> None:
    """The uint8 square, and what the levels make of it, equal the stock processor's values exactly."""
    square = preparer(geometry).picture(Image.fromarray(rgb))
    plain = {"do_rescale": False, "do_normalize": False}
    raw = stock(geometry)([rgb], input_data_format="channels_last", **plain)["pixel_values"][0]
    assert square.dtype == np.uint8
    np.testing.assert_array_equal(square.transpose(2, 0, 1), raw)
    normal = stock(geometry)([rgb], input_data_format="channels_last")["pixel_values"][0]
    ours = np.stack([preparer(geometry).levels[c][square[:, :, c]] for c in range(3)])
    assert normal.dtype == ours.dtype == np.float32
    np.testing.assert_array_equal(ours, normal)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", GEOMETRIES)
def test_picture_equals_the_stock_processor_bit_for_bit(name: str, size: tuple[int, int]) -> None:
    geometry, rgb = GEOMETRIES[name], picture(*size)
    if preparer(geometry).fits(*size):
        assert_identical(geometry, rgb)
    else:
        assert (name, max(size) / min(size) > 6.6) == ("small_64", True)
        with pytest.raises(ValueError, match="Size must contain"):
            stock(geometry)([rgb], input_data_format="channels_last")


@given(st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_picture_equals_the_stock_processor_for_any_size_that_fits(height: int, width: int) -> None:
    for geometry in (SMALL, Geometry(shortest=70, crop=71, divisor=32), Geometry(shortest=48, crop=80, divisor=16)):
        if preparer(geometry).fits(height, width):
            assert_identical(geometry, picture(height, width))


@given(st.integers(1, 24), st.integers(1, 64), st.sampled_from([8, 16, 20, 32]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_picture_of_which_columns_are_left_out_equals_the_stock_processor(tall: int, wide: int, unit: int) -> None:
    """Widths that share a divisor with what they are resized to: only those columns are computed that stay."""
    height, width = min(tall, wide) * unit, max(tall, wide) * unit
    for geometry in (SMALL, BASE, LARGE):
        if preparer(geometry).fits(height, width):
            assert_identical(geometry, picture(height, width))


@pytest.mark.parametrize("size", [(600, 900), (853, 1280), (1707, 2560), (1280, 853), (1001, 617)])
@pytest.mark.parametrize("geometry", [SMALL, BASE, LARGE], ids=str)
def test_picture_of_a_draft_is_nearly_that_of_the_whole(geometry: Geometry, size: tuple[int, int]) -> None:
    rough = Image.fromarray(picture(size[0] // 24, size[1] // 24)).resize(size[::-1], Image.Resampling.BICUBIC)
    whole, draft = (decode(encoded(rough, "JPEG"), 10**7, how) for how in (None, preparer(geometry).resized))
    assert draft.picture.width * draft.picture.height < whole.picture.width * whole.picture.height / 3
    squares = [preparer(geometry).picture(one.picture, one.extent).astype(int) for one in (whole, draft)]
    assert np.abs(squares[0] - squares[1]).mean() < 2


def test_picture_for_large_is_288_within_a_black_border_of_three() -> None:
    square = preparer(LARGE).picture(Image.new("RGB", (500, 500), "white"))
    assert square.shape == (294, 294, 3)
    assert (square[3:291, 3:291] == 255).all()
    assert square.sum() == 288 * 288 * 3 * 255


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 12))
@example(height=1, width=14, zoom=1)
@example(height=1, width=15, zoom=1)
@example(height=1, width=16, zoom=1)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_fits_is_false_exactly_when_the_stock_processor_raises(height: int, width: int, zoom: int) -> None:
    height *= zoom
    for geometry in (BASE, LARGE):
        for h, w in ((height, width), (width, height)):
            try:
                stock(geometry)([np.zeros((h, w, 3), dtype=np.uint8)], input_data_format="channels_last")
                raised = False
            except ValueError:
                raised = True
            assert preparer(geometry).fits(h, w) is not raised


def test_fits_is_false_for_a_picture_without_pixels() -> None:
    assert not preparer(BASE).fits(0, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("surroundings")
    write_surroundings(made, config())
    return made


@pytest.fixture(scope="module")
def stock_ids(folder: Path) -> Callable[[str], list[int]]:
    stock_tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: stock_tokenizer(text, truncation=True)["input_ids"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "two cats", "  spaced   out ", "🦊🏳️‍🌈 naïve 漢字", "a <mask> ring", "<s>in</s>line<pad>",
     "line\nbreak\t.", "x" * 39, "ab " * 500, "cats and dogs " * 7_200, "\x00\ufeff"],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_captions_token_ids_equal_the_stock_tokenizer(
    text: str, folder: Path, stock_ids: Callable[[str], list[int]]
) -> None:
    [(ids, _)] = Preparer.from_folder(folder).captions([text])
    assert ids == stock_ids(text)


def test_captions_of_any_text_equal_the_stock_tokenizer(folder: Path, stock_ids: Callable[[str], list[int]]) -> None:
    ours = Preparer.from_folder(folder)

    @given(st.text(max_size=80))
    @settings(max_examples=60, deadline=None, derandomize=True)
    def equal(text: str) -> None:
        assert ours.captions([text])[0][0] == stock_ids(text)

    equal()


def test_captions_are_marked_cut_from_the_first_token_over_the_limit(folder: Path) -> None:
    ours = Preparer.from_folder(folder)
    assert ours.max_tokens == POSITIONS - 2 == 40
    # 38 letters without a merge, the two ends, and one more
    (whole, uncut), (ids, cut) = ours.captions(["#" * 38, "#" * 39])
    assert (len(whole), uncut) == (40, False)
    assert (len(ids), cut) == (40, True)
    assert (ids[0], ids[-1]) == (0, 2)


def test_captions_of_a_batch_equal_each_alone_and_are_not_padded(folder: Path) -> None:
    ours, texts = Preparer.from_folder(folder), ["", "two cats", "a small red ring above a large blue star"]
    assert ours.captions(texts) == [ours.captions([text])[0] for text in texts]
    assert ours.captions([]) == []


def test_preparer_survives_pickling_to_another_process(folder: Path) -> None:
    ours = Preparer.from_folder(folder)
    again = pickle.loads(pickle.dumps(ours))
    assert again.captions(["two cats"]) == ours.captions(["two cats"])
    assert again.fingerprint == ours.fingerprint


def test_token_of_an_unknown_name_is_refused(folder: Path) -> None:
    ours = Preparer.from_folder(folder)
    assert ours.token("<mask>") == 4
    with pytest.raises(ModelError, match="no token '<nothing>'"):
        ours.token("<nothing>")


def changed(folder: Path, to: Path, name: str, change: Callable[[dict], object]) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    content = json.loads((to / name).read_text())
    before = copy.deepcopy(content)
    change(content)
    assert content != before
    (to / name).write_text(json.dumps(content))
    return to


PROCESSOR, CONFIG, TOKENIZER = "preprocessor_config.json", "config.json", "tokenizer.json"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (PROCESSOR, lambda c: c.update(crop_size={"shortest_edge": 288}), "crops to 288 .* takes 64: set crop_size"),
        (CONFIG, lambda c: c["vision_config"].update(image_size=96), "crops to 64 .* takes 96"),
        (PROCESSOR, lambda c: c.update(do_normalize=False), "turns off do_normalize"),
        (PROCESSOR, lambda c: c.update(size={"height": 64, "width": 64}), "a size of .*shortest_edge"),
        (PROCESSOR, lambda c: c.update(image_mean=[0.5]), "1 channels, wanted 3"),
        (CONFIG, lambda c: c["vision_config"].update(image_size=[64, 64]), "not BridgeTower's"),
        (CONFIG, lambda c: c.update(text_config=[]) or c.update(text_config=[1]), "text_config holds no JSON object"),
        (CONFIG, lambda c: c["text_config"].update(vocab_size=100), "tokens up to 339 but the text tower knows 100"),
        (TOKENIZER, lambda c: c.pop("model"), "is no tokenizer"),
    ],
    ids=["crop", "image_size", "step_off", "size", "mean", "square", "text", "vocabulary", "tokenizer"],
)  # fmt: skip
def test_from_folder_refuses_what_does_not_fit(
    name: str, change: Callable[[dict], object], says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        Preparer.from_folder(changed(folder, tmp_path, name, change))


@pytest.mark.parametrize("name", [PROCESSOR, CONFIG, TOKENIZER])
@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["missing", "cut", "list"])
def test_from_folder_names_the_file_that_is_missing_or_broken(
    name: str, content: str | None, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=name):
        Preparer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (PROCESSOR, lambda c: c.update(image_mean=[0.5, 0.5, 0.5])),
        (PROCESSOR, lambda c: c.update(size={"shortest_edge": 80})),
        (PROCESSOR, lambda c: c.update(size_divisor=32)),
        (PROCESSOR, lambda c: c.update(resample=2)),
        (CONFIG, lambda c: c["text_config"].update(max_position_embeddings=30)),
        (TOKENIZER, lambda c: c["model"]["merges"].pop()),
    ],
    ids=["mean", "size", "divisor", "resample", "limit", "merges"],
)
def test_fingerprint_changes_with_everything_that_changes_a_value(
    name: str, change: Callable[[dict], object], folder: Path, tmp_path: Path
) -> None:
    before, after = Preparer.from_folder(folder), Preparer.from_folder(changed(folder, tmp_path, name, change))
    assert before.fingerprint != after.fingerprint


def test_fingerprint_is_the_same_however_the_tokenizer_was_saved(folder: Path, tmp_path: Path) -> None:
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
               "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    other = Preparer.from_folder(changed(folder, tmp_path, TOKENIZER, lambda c: c.update(padding=padding)))
    assert other.fingerprint == Preparer.from_folder(folder).fingerprint
    assert other.captions(["two cats"]) == Preparer.from_folder(folder).captions(["two cats"])
