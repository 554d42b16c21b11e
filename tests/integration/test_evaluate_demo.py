"""What the ITM rerank is for: on scenes that the demo model never saw it finds the right one of many, and of two."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import model
from bridgelake import DEFAULT_MODEL, Lake
from bridgelake.wiring import as_model
from demo.captions import phrase, reordered, told
from demo.draw import draw
from demo.pack import encoded
from demo.place import place, random_scene
from demo.scenes import Claim, generator
from tests import ingest
from tests.shards import write_tar
from tests.typed import Done, typed

FAMILIES = 40
SEED = 104
SWAPS = {"colours": 4, "shapes": 2, "places": 1}


def family(claim: Claim) -> list[Claim]:
    """All eight scenes of the same words: colours, shapes and places swapped or not, number 0 with none."""
    found = []
    for colours, shapes, places in product((False, True), repeat=3):
        one, other = claim.things
        if colours:
            one, other = replace(one, colour=other.colour), replace(other, colour=one.colour)
        if shapes:
            one, other = replace(one, shape=other.shape), replace(other, shape=one.shape)
        found.append(claim.of([other, one] if places else [one, other]))
    return found


def families() -> list[list[Claim]]:
    """Some of which no two members are alike."""
    found: list[list[Claim]] = []
    known: set[Claim] = set()
    for index in range(10 * FAMILIES):
        claims = family(random_scene(SEED, index).claim)
        if len(found) < FAMILIES and len({*claims}) == 8 and not known.intersection(claims):
            known.update(claims)
            found.append(claims)
    return found


@pytest.fixture(scope="module")
def captions() -> dict[str, str]:
    """Caption of each scene by its key: the family and the number in it."""
    return {}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, captions: dict[str, str]) -> Lake:
    """Scenes of two objects that the model was not trained on, in a table made without Ray."""
    folder = tmp_path_factory.mktemp("unseen")
    rng = generator(SEED)
    members = []
    for f, claims in enumerate(families()):
        for j, claim in enumerate(claims):
            key, scene = f"{f:03d}{j}", place(claim, rng)
            captions[key] = phrase(reordered(told(scene, rng), 50, rng), rng)
            members += [(f"{key}.png", encoded(draw(scene), "png")), (f"{key}.txt", captions[key].encode())]
    there = Lake(str(folder / "lake"))
    embedded = ingest.Lake(folder, model=as_model(there.spec))
    write_tar(embedded.root / "00000.tar", members)
    embedded.run("00000.tar")
    return there


def test_rerank_lifts_recall_on_unseen_scenes(lake: Lake) -> None:
    report = lake.evaluate(rerank_top=20)
    assert report.itm
    assert (report.pictures, report.pairs) == (8 * FAMILIES, 8 * FAMILIES)
    assert report.itc.ir[0] >= 95
    assert report.itm.ir[0] >= 97
    assert report.itm.ir[0] >= report.itc.ir[0] + 1
    assert report.itm.tr[0] >= 97
    assert report.itm.ir[2] == report.itm.tr[2] == 100


def test_rerank_puts_the_right_one_of_two_swapped_scenes_first(lake: Lake, captions: dict[str, str]) -> None:
    first = []
    for f in range(FAMILIES):
        for number in SWAPS.values():
            own, other = f"{f:03d}0", f"{f:03d}{number}"
            hits = lake.search(captions[own], where=f"key IN ('{own}', '{other}')", rerank="itm").to_list()
            assert len(hits) == 2
            first.append(hits[0]["key"] == own)
    assert np.mean(first) >= 0.95


def test_shards_without_a_table_give_the_figures_of_the_table(lake: Lake) -> None:
    stored = lake.evaluate(rerank_top=5)
    fresh = Lake("").evaluate(str(Path(lake.db).parent / "laion"), rerank_top=5)
    assert (fresh.pictures, fresh.pairs) == (stored.pictures, stored.pairs)
    assert fresh.itm == stored.itm
    np.testing.assert_allclose((*fresh.itc.ir, *fresh.itc.tr), (*stored.itc.ir, *stored.itc.tr), atol=2.0)


def test_margins_are_the_log_odds_of_a_match_whatever_the_batch() -> None:
    encoder = model.load(model.resolve(DEFAULT_MODEL))
    rng = np.random.default_rng(0)
    side = encoder.preparer.size
    pixels = rng.integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    texts = ["a red ring", "a small blue star above a large green heart", "two circles", "the black cross"]
    pairs = rng.permutation([(t, i) for t in range(4) for i in range(5)])[:13]
    matched = encoder.match(pixels, texts)[pairs[:, 0], pairs[:, 1]].astype(np.float64)
    for encoder.micro_batch in (2, 64):
        margins = encoder.margins(pixels, texts, pairs[:, 0], pairs[:, 1])
        np.testing.assert_allclose(1 / (1 + np.exp(-margins.astype(np.float64))), matched, rtol=1e-3)


def evaluate(*arguments: str) -> Done:
    return typed("evaluate", *arguments)


def test_job_prints_one_json_object(lake: Lake) -> None:
    done = evaluate("--db", lake.db, "--where", "width = 256", "--limit", "30", "--rerank-top", "5", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["pictures"], told["model"]) == (30, DEFAULT_MODEL)
    assert told["itm"]["RSUM"] >= 500
    assert done.stderr == "30 pictures, 30 captions\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "error: give --db, to evaluate a table's rows, or --input, to evaluate shards: one of the two"),
        (("--input", "/nowhere.tar"), 1, "error: no such file or folder: /nowhere.tar"),
        (("--db", "/nowhere"), 1, "error: there is no table laion in /nowhere"),
    ],
)
def test_job_ends_with_the_code_and_one_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = evaluate(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
