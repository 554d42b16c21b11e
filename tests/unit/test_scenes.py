"""Drawn scenes: the same everywhere, and what is said of them is true."""

import hashlib
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from demo import captions, pack
from demo.draw import draw
from demo.place import place, random_claim, random_scene
from demo.scenes import (
    CANONICAL,
    CANVAS,
    COLOURS,
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
    relation_of,
)
from demo.truth import truth

RING = Thing("red", "ring", "small")
STAR = Thing("blue", "star", "large")
HEART = Thing("green", "heart", "small")
SCENE = Scene((Placed(RING, 120, 60, 70), Placed(STAR, 130, 180, 100)), Background("plain", 0, 1, 0))
THREE = Scene((Placed(RING, 100, 50, 70), Placed(STAR, 70, 180, 100), Placed(HEART, 200, 170, 70)), SCENE.background)


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


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim(STAR, "left of", HEART), True),
        (Claim(HEART, "below", RING), True),
        (Claim(RING, "above", STAR, "above", HEART), True),
        (Claim(STAR, "below", RING, "left of", HEART), True),
        (Claim(STAR, "left of", HEART, "below", RING), True),
        (Claim(Thing("blue", "star"), "below", Thing("red", "ring"), "left of", Thing("green", "heart")), True),
        (Claim(STAR, "below", HEART, "left of", RING), False),
        (Claim(STAR, "below", RING, "right of", HEART), False),
        (Claim(RING, "above", STAR, "above", STAR), False),
        (Claim(RING, "above", STAR, "above", Thing("red", "heart", "small")), False),
    ],
)
def test_drawer_tells_whether_a_caption_is_true_of_three_objects(claim: Claim, expected: bool) -> None:
    assert is_true(claim, THREE) is expected
    assert is_true(claim.inverse, THREE) is expected
    assert not is_true(claim, SCENE)


def test_truth_matrix_agrees_with_the_drawer() -> None:
    rng = generator(5)
    scenes = [random_scene(5, index, objects) for index in range(30) for objects in (2, 3)]
    said = [captions.reordered(captions.vaguer(captions.told(scene, rng), rng), 50, rng) for scene in scenes]
    said += [captions.altered(claim, how, rng) for claim in said for how in ("word", *captions.SWAPS)]
    expected = [[is_true(claim, scene) for scene in scenes] for claim in said]
    assert (truth(said, scenes) == expected).all()


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


def test_three_objects_are_inside_apart_and_any_two_clear_in_their_relation() -> None:
    for index in range(200):
        scene = random_scene(11, index, 3)
        for one in scene.objects:
            assert SIZES[one.thing.size][0] <= one.diameter <= SIZES[one.thing.size][1]
            assert one.diameter // 2 <= min(one.x, one.y)
            assert max(one.x, one.y) <= CANVAS - one.diameter // 2
        for a, b in combinations(scene.objects, 2):
            dx, dy = abs(a.x - b.x), abs(a.y - b.y)
            assert max(dx, dy) > 2 * min(dx, dy)
            assert max(dx, dy) > a.diameter // 2 + b.diameter // 2
            assert relation_of(a, b) in CANONICAL
            assert a.thing != b.thing


def test_scene_of_three_tells_of_every_two_and_of_each_among_the_others() -> None:
    assert THREE.claims[:3] == [
        Claim(RING, "above", STAR),
        Claim(RING, "above", HEART),
        Claim(STAR, "left of", HEART),
    ]
    assert THREE.claims[4] == Claim(STAR, "below", RING, "left of", HEART)
    assert len(THREE.claims) == 6
    rng = generator(8)
    assert {captions.told(THREE, rng) for _ in range(100)} == set(THREE.claims)
    assert captions.told(SCENE, rng) == SCENE.claim


def test_place_makes_the_claim_true_whichever_way_it_is_said() -> None:
    rng = generator(7)
    for _ in range(200):
        claim = random_claim(rng)
        assert is_true(claim, place(claim, rng))
        assert is_true(claim, place(claim.inverse, rng))


@pytest.mark.parametrize("claim", [Claim(Thing("red", "ring")), Claim(RING, "above", STAR, "above", HEART)])
def test_place_refuses_a_claim_that_is_not_fully_about_two_objects(claim: Claim) -> None:
    with pytest.raises(ValueError, match="only a full claim about two objects"):
        place(claim, generator(0))


def test_random_scenes_use_every_word_and_never_the_same_object_twice() -> None:
    claims = [random_scene(2, index).claim for index in range(400)]
    things = [thing for claim in claims for thing in (claim.first, claim.second) if thing]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {claim.relation for claim in claims} == set(CANONICAL)
    assert all(claim.first != claim.second for claim in claims)


@pytest.mark.parametrize("objects", [2, 3])
@pytest.mark.parametrize("how", captions.SWAPS)
def test_swapped_claim_is_false_unless_the_objects_are_alike(how: captions.Alteration, objects: int) -> None:
    rng = generator(3)
    found = []
    for index in range(200):
        scene = random_scene(3, index, objects)
        found.append(is_true(captions.altered(captions.told(scene, rng), how, rng), scene))
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


def test_phrase_of_three_objects_says_how_one_stands_to_both_others() -> None:
    rng, claim = generator(9), Claim(STAR, "below", RING, "left of", HEART)
    said = {captions.phrase(claim, rng).lower().rstrip(".") for _ in range(600)}
    assert "a large blue star below a small red ring and left of a small green heart" in said
    assert "the large blue star is under the small red ring and to the left of the small green heart" in said
    assert "a small red ring above a large blue star, with a small green heart to the right of the star" in said
    assert "large blue star below small red ring and left of small green heart" in said
    known = {*captions.words(), *captions.JOINING}
    assert set(" ".join(said).replace(",", "").split()) <= known


def test_phrase_points_back_by_the_shape_only_where_no_other_object_has_it() -> None:
    rng = generator(9)
    claim = Claim(STAR, "below", RING, "left of", Thing("green", "star", "small"))
    assert not any("with" in captions.phrase(claim, rng) for _ in range(100))


def test_phrase_may_leave_out_the_second_of_two_like_relations() -> None:
    rng, claim = generator(9), Claim(RING, "above", STAR, "above", HEART)
    said = {captions.phrase(claim, rng).lower() for _ in range(300)}
    assert "a small red ring above a large blue star and a small green heart" in said
    assert "a small red ring above a large blue star and above a small green heart" in said


def test_phrase_puts_an_before_a_vowel() -> None:
    texts = [captions.phrase(Claim(Thing("orange", "heart")), generator(i)) for i in range(60)]
    assert any("an orange heart" in text.lower() for text in texts)
    assert not any("a orange" in text.lower() for text in texts)


def test_mirrored_scene_keeps_above_and_exchanges_left_and_right() -> None:
    assert SCENE.mirrored.claims == SCENE.claims
    assert THREE.mirrored.claims[:3] == [
        Claim(RING, "above", HEART),
        Claim(RING, "above", STAR),
        Claim(HEART, "left of", STAR),
    ]
    for index in range(50):
        scene = random_scene(12, index, 3)
        assert scene.mirrored.mirrored == scene
        assert all(relation_of(a, b) in CANONICAL for a, b in combinations(scene.mirrored.objects, 2))


def test_draw_gives_the_same_pixels_on_every_machine() -> None:
    pixels = b"".join(draw(random_scene(0, index)).tobytes() for index in range(20))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "a7b953c2c2f9ffa0"
    pixels = b"".join(draw(random_scene(0, index, 3)).tobytes() for index in range(20))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "2f3d9d64bd6bf216"


def test_draw_shows_each_object_in_its_colour_where_it_was_placed() -> None:
    colours = np.array(list(COLOURS.values()))
    for index in range(60):
        scene = random_scene(21, index, 2 + index % 2)
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


def test_scenes_need_no_torch() -> None:
    code = "import sys, demo.draw, demo.captions, demo.truth; print('torch' in sys.modules)"
    root = Path(pack.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
