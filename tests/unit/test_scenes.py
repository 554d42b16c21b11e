"""Drawn scenes: the same everywhere, what is said of them is true, and the demo shards are as planted."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from demo import captions, pack
from demo.draw import draw
from demo.scenes import (
    CANONICAL,
    CANVAS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TINTS,
    Background,
    Claim,
    Placed,
    Scene,
    Thing,
    generator,
    is_true,
    place,
    random_claim,
    random_scene,
)
from demo.truth import truth
from pipeline.config import ReadConfig
from pipeline.prepare import prepare_slice
from pipeline.shards import cut
from tests.shards import Squares, shard

RING = Thing("red", "ring", "small")
STAR = Thing("blue", "star", "large")
SCENE = Scene((Placed(RING, 120, 60, 70), Placed(STAR, 130, 180, 100)), Background("plain", 0, 1, 0))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> pack.Packed:
    return pack.pack(tmp_path_factory.mktemp("shards"), pairs=200, seed=3)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim(RING, "above", STAR), True),
        (Claim(STAR, "below", RING), True),
        (Claim(Thing("red", "ring"), "above", Thing("blue", "star")), True),
        (Claim(Thing("blue", "star")), True),
        (Claim(STAR, "above", RING), False),
        (Claim(RING, "left of", STAR), False),
        (Claim(Thing("blue", "ring"), "above", Thing("red", "star")), False),
        (Claim(Thing("red", "star")), False),
        (Claim(Thing("red", "ring", "large")), False),
    ],
)
def test_drawer_tells_whether_a_caption_is_true(claim: Claim, expected: bool) -> None:
    assert is_true(claim, SCENE) is expected


def test_truth_matrix_agrees_with_the_drawer() -> None:
    rng = generator(5)
    scenes = [random_scene(5, index) for index in range(40)]
    said = [captions.reordered(captions.vaguer(scene.claim, rng), 50, rng) for scene in scenes]
    said += [captions.altered(claim, "word", rng) for claim in said]
    expected = [[is_true(claim, scene) for scene in scenes] for claim in said]
    assert (truth(said, [scene.claim for scene in scenes]) == expected).all()


def test_scene_keeps_its_objects_inside_apart_and_clear_in_their_relation() -> None:
    for index in range(500):
        scene = random_scene(11, index)
        a, b = scene.objects
        dx, dy = abs(a.x - b.x), abs(a.y - b.y)
        assert max(dx, dy) > 2 * min(dx, dy)
        assert max(dx, dy) > a.diameter // 2 + b.diameter // 2
        assert scene.claim.relation in CANONICAL
        for one in (a, b):
            assert SIZES[one.thing.size][0] <= one.diameter <= SIZES[one.thing.size][1]
            assert one.diameter // 2 <= min(one.x, one.y)
            assert max(one.x, one.y) <= CANVAS - one.diameter // 2


def test_place_makes_the_claim_true_whichever_way_it_is_said() -> None:
    rng = generator(7)
    for _ in range(200):
        claim = random_claim(rng)
        assert is_true(claim, place(claim, rng))
        assert is_true(claim, place(claim.inverse, rng))


def test_place_refuses_a_claim_that_leaves_something_out() -> None:
    with pytest.raises(ValueError, match="only a full claim"):
        place(Claim(Thing("red", "ring")), generator(0))


def test_random_scenes_use_every_word_and_never_the_same_object_twice() -> None:
    claims = [random_scene(2, index).claim for index in range(400)]
    things = [thing for claim in claims for thing in (claim.first, claim.second) if thing]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {claim.relation for claim in claims} == set(CANONICAL)
    assert all(claim.first != claim.second for claim in claims)


@pytest.mark.parametrize("how", captions.SWAPS)
def test_swapped_claim_is_false_unless_the_objects_are_alike(how: captions.Alteration) -> None:
    rng = generator(3)
    found = []
    for index in range(200):
        scene = random_scene(3, index)
        found.append(is_true(captions.altered(scene.claim, how, rng), scene))
    assert sum(found) < 0.2 * len(found)  # two objects of one colour cannot swap it


def test_phrase_says_the_objects_in_the_claims_order_and_nothing_but_known_words() -> None:
    rng, known = generator(9), set(captions.words())
    for index in range(300):
        claim = captions.reordered(random_scene(9, index).claim, 50, rng)
        text = captions.phrase(claim, rng)
        assert set(text.rstrip(".").split()) <= known
        assert claim.second is not None
        said = text.lower().split()
        if claim.first.colour != claim.second.colour:
            assert said.index(claim.first.colour) < said.index(claim.second.colour)


def test_phrase_puts_an_before_a_vowel() -> None:
    texts = [captions.phrase(Claim(Thing("orange", "heart")), generator(i)) for i in range(60)]
    assert any("an orange heart" in text.lower() for text in texts)
    assert not any("a orange" in text.lower() for text in texts)


def test_mirrored_claim_is_true_of_the_mirrored_scene() -> None:
    a, b = SCENE.objects
    beside = Scene((Placed(a.thing, 60, 100, 70), Placed(b.thing, 190, 110, 100)), SCENE.background)
    flipped = Scene((Placed(a.thing, 196, 100, 70), Placed(b.thing, 66, 110, 100)), SCENE.background)
    for scene in (SCENE, beside):
        mirror = flipped if scene is beside else SCENE
        assert is_true(captions.mirrored(scene.claim), mirror)
    assert captions.mirrored(beside.claim).relation == RELATIONS[1]


def test_draw_gives_the_same_pixels_on_every_machine() -> None:
    pixels = b"".join(draw(random_scene(0, index)).tobytes() for index in range(20))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "a7b953c2c2f9ffa0"


def test_draw_shows_each_object_in_its_colour_where_it_was_placed() -> None:
    colours = np.array(list(COLOURS.values()))
    for index in range(60):
        scene = random_scene(21, index)
        pixels = np.asarray(draw(scene)).astype(int)
        for one in scene.objects:
            # The middle of a ring is empty: look at its right side.
            x = one.x + one.diameter * 3 // 8 if one.thing.shape == "ring" else one.x
            nearest = np.abs(colours - pixels[one.y, x]).sum(1).argmin()
            assert tuple(COLOURS)[nearest] == one.thing.colour


def test_colours_are_well_apart_from_each_other_and_from_the_backgrounds() -> None:
    colours = np.array(list(COLOURS.values()))
    for i, colour in enumerate(colours):
        others = np.concatenate([np.delete(colours, i, axis=0), np.array(TINTS)])
        assert np.abs(others - colour).sum(1).min() >= 45


def test_shapes_stay_apart_at_the_size_the_model_sees() -> None:
    background = Background("plain", 0, 1, 0)
    seen = {}
    for shape in SHAPES:
        scene = Scene((Placed(Thing("blue", shape, "small"), 128, 128, 70), SCENE.objects[1]), background)
        small = np.asarray(draw(scene).resize((64, 64)).crop((20, 20, 44, 40)).convert("L")).astype(int)
        seen[shape] = small
    for one, picture in seen.items():
        assert all(np.abs(picture - other).mean() > 8 for name, other in seen.items() if name != one)


def test_pack_counts_what_is_read_and_rejects_what_was_planted(packed: pack.Packed) -> None:
    config, rejected, pairs, truncated = ReadConfig((str(packed.folder),)), Counter[pack.Planted](), 0, 0
    for name in packed.shards:
        (whole,) = cut(shard(packed.folder / name), 2**30)
        for table in prepare_slice(whole, "attempt", config, Squares()):
            for row in table.to_pylist():
                if row["kind"] == "reject":
                    rejected[pack.Planted(name, row["key"], row["reason"])] += 1
                elif row["kind"] == "sample":
                    pairs += len(row["captions"])
                    truncated += sum(len(caption["caption"].split()) > 64 for caption in row["captions"])
                else:
                    assert row["detail"] is None
    planted = {pack.Planted(p.shard, p.key, p.reason): p.pairs for p in packed.planted}
    assert rejected == planted
    assert (pairs, truncated) == (packed.pairs, packed.long_captions)


def test_pack_writes_the_same_bytes_again(packed: pack.Packed, tmp_path: Path) -> None:
    again = pack.pack(tmp_path, pairs=200, seed=3)
    assert again.planted == packed.planted
    for name in packed.shards:
        assert (tmp_path / name).read_bytes() == (packed.folder / name).read_bytes()


def test_pack_captions_are_true_of_their_pictures_scene() -> None:
    several = 0
    for index in range(50):
        one = pack.sample(4, index, f"{index:09d}")
        several += len(one.captions) == 3
        assert len(set(one.captions)) == len(one.captions)
        words = set(" ".join(one.captions).lower().replace(".", "").split())
        a, b = (placed.thing for placed in one.scene.objects)
        assert words & set(COLOURS) == {a.colour, b.colour}
    assert several == 10


def test_scenes_script_prints_what_it_wrote(tmp_path: Path) -> None:
    script = Path(pack.__file__).with_name("scenes.py")
    command = [sys.executable, str(script), "--out", str(tmp_path / "out"), "--pairs", "50"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "6 shards (00000.tar to 00005.parquet)" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_scenes_need_no_torch() -> None:
    code = "import sys, demo.draw, demo.captions, demo.truth; print('torch' in sys.modules)"
    root = Path(pack.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
