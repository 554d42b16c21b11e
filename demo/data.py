"""Training batches: a pool of drawn scenes, each beside a mate that differs in one thing.

Pictures pass through the checkpoint's own preprocessing, so that training sees what inference sees.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo import captions
from demo.captions import SYNONYMS, Alteration
from demo.draw import draw
from demo.place import place, random_claim, random_scene, scatter
from demo.scenes import CANONICAL, COLOURS, SHAPES, SIZES, Claim, Scene, generator, is_true, relation_of
from demo.truth import thing_code, truth
from model.prepare import Preparer

Ints = npt.NDArray[np.int64]

# Out of a hundred altered captions. The relation is what a model learns last, and needs the most.
ALTERATIONS: tuple[tuple[Alteration, int], ...] = (("relation", 40), ("shapes", 20), ("colours", 15), ("word", 25))
# Of ten masked words: shapes are the hardest to see.
MASKED = ("shape", "shape", "shape", "shape", "colour", "colour", "colour", "relation", "relation", "size")
SHIFT = 2  # a picture is moved by up to so many pixels of the model's square
UNSAID = -1


def alter(claim: Claim, scene: Scene, rng: np.random.Generator) -> Claim:
    """A claim that is false of `scene`, and differs in one thing from one that is true of it."""
    roll = int(rng.integers(100))
    for how, percent in ALTERATIONS:
        if roll < percent:
            changed = captions.altered(claim, how, rng)
            break
        roll -= percent
    while is_true(changed, scene):
        changed = captions.altered(claim, "word", rng)
    return changed


def mates(seed: int, index: int, objects: int) -> tuple[Scene, Scene]:
    """Two scenes of two objects or three; they differ in one thing, or in where three objects stand."""
    rng = generator(seed, index)
    if objects == 2:
        claim = random_claim(rng)
        changed = alter(claim, place(claim, generator(seed)), rng)
        return place(claim, rng), place(changed, rng)
    first = random_scene(seed, index, objects)
    _, _, _, every, *_ = first.claims
    things = alter(every, first, rng).things
    mate = scatter(things, rng)
    if [thing.size for thing in things] == [one.thing.size for one in first.objects]:
        placed = (replace(one, thing=thing) for one, thing in zip(first.objects, things, strict=True))
        mate = Scene(tuple(placed), mate.background)
    while set(mate.claims) == set(first.claims):
        mate = scatter(things, rng)
    return first, mate


def _draw_pairs(task: tuple[Path, int, range, int]) -> tuple[npt.NDArray[np.uint8], list[Scene]]:
    folder, seed, indexes, objects = task
    prepare = Preparer.from_folder(folder)
    scenes = [scene for index in indexes for scene in mates(seed, index, objects)]
    return np.stack([prepare.picture(draw(scene)) for scene in scenes]), scenes


@dataclass(frozen=True)
class Pool:
    """Drawn scenes and their pictures (2n, size, size, 3) uint8; 2i and 2i + 1 are mates."""

    pictures: npt.NDArray[np.uint8]
    scenes: list[Scene]

    @classmethod
    def drawn(cls, folder: Path, pairs: dict[int, int], seed: int, processes: int) -> "Pool":
        """Draw so many pairs of mates of two objects and of three for the checkpoint in `folder`."""
        tasks = [
            (folder, seed, range(start, min(start + 250, count)), objects)
            for objects, count in pairs.items()
            for start in range(0, count, 250)
        ]
        # Spawned, because a forked child of a process that has used torch's threads can hang.
        with get_context("spawn").Pool(processes) as workers:
            parts = workers.map(_draw_pairs, tasks, chunksize=1)
        return cls(np.concatenate([part[0] for part in parts]), [scene for part in parts for scene in part[1]])


@dataclass(frozen=True)
class Batch:
    """N pictures and 3N texts: N true ones, N altered ones, and the true ones with words masked."""

    pixels: Tensor  # (N, 3, size, size) uint8
    ids: Tensor  # (3N, L)
    attention: Tensor  # (3N, L)
    targets: Tensor  # (N, L): the masked tokens, -100 elsewhere
    true: Tensor  # (2N, N): which text is true of which picture
    said: Tensor  # (2N, 12): the facts of the true and the altered texts, see `_facts`
    shown: Tensor  # (N, 12): the facts of the pictures

    def to(self, device: str) -> "Batch":
        """The same on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


class Batcher:
    """Makes batches; everything random in them comes from one seed."""

    def __init__(self, pool: Pool, prepare: Preparer, size: int, seed: int) -> None:
        self.pool, self.prepare, self.size = pool, prepare, size
        self.rng = generator(seed)
        self.kinds = self._word_kinds()
        self.order: Ints = np.empty(0, dtype=np.int64)

    def _word_kinds(self) -> dict[int, str]:
        sizes = (*SIZES, *SYNONYMS.values())
        relations = ("left", "right", "above", "over", "below", "under")
        groups = {"colour": COLOURS, "shape": SHAPES, "size": sizes, "relation": relations}
        return {
            self.prepare.captions([form])[0][0][1]: kind
            for kind, group in groups.items()
            for word in group
            for form in (word, " " + word)
        }

    def _next_pairs(self) -> Ints:
        half = self.size // 2
        if len(self.order) < half:
            self.order = self.rng.permutation(len(self.pool.scenes) // 2)
        taken, self.order = self.order[:half], self.order[half:]
        return np.stack([2 * taken, 2 * taken + 1], axis=1).ravel()

    def _augmented(self, index: int) -> tuple[npt.NDArray[np.uint8], Scene]:
        picture, scene = self.pool.pictures[index], self.pool.scenes[index]
        flip, down, right = self.rng.integers(0, (2, 2 * SHIFT + 1, 2 * SHIFT + 1)).tolist()
        if flip:
            picture, scene = picture[:, ::-1], scene.mirrored
        padded = np.pad(picture, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
        side = len(picture)
        return padded[down : down + side, right : right + side], scene

    def _masked(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """The tokens with one or two words masked, and the targets."""
        hidden, targets = list(ids), [-100] * len(ids)
        for _ in range(1 + int(self.rng.integers(3) == 0)):
            kind = MASKED[int(self.rng.integers(len(MASKED)))]
            places = [i for i, token in enumerate(ids) if self.kinds.get(token) == kind]
            # A vague caption may lack a size or a relation; every one has a shape.
            places = places or [i for i, token in enumerate(ids) if self.kinds.get(token) == "shape"]
            i = places[int(self.rng.integers(len(places)))]
            hidden[i], targets[i] = self.prepare.token("<mask>"), ids[i]
        return hidden, targets

    def batch(self, percent_canonical: int) -> Batch:
        """The next batch, so many of a hundred captions naming the left or upper object first."""
        rng = self.rng
        pictures, scenes = zip(*(self._augmented(int(i)) for i in self._next_pairs()), strict=True)
        said = [captions.vaguer(captions.told(scene, rng), rng) for scene in scenes]
        wrong = [alter(claim, scene, rng) for claim, scene in zip(said, scenes, strict=True)]
        texts = [captions.phrase(captions.reordered(c, percent_canonical, rng), rng) for c in (*said, *wrong)]
        ids = [encoded for encoded, _ in self.prepare.captions(texts)]
        masked = [self._masked(one) for one in ids[: self.size]]
        tokens, attention = padded([*ids, *(hidden for hidden, _ in masked)], self.prepare.token("<pad>"))
        targets = torch.full((self.size, tokens.shape[1]), -100)
        for row, (_, wanted) in zip(targets, masked, strict=True):
            row[: len(wanted)] = torch.tensor(wanted)
        return Batch(
            pixels=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
            ids=tokens,
            attention=attention,
            targets=targets,
            true=torch.from_numpy(truth([*said, *wrong], list(scenes))),
            said=torch.tensor([_said(claim) for claim in (*said, *wrong)]),
            shown=torch.tensor([_shown(scene) for scene in scenes]),
        )


def _said(claim: Claim) -> list[int]:
    """Colour, shape and size of three objects, and the axis of each pair of them; -1 is unsaid.

    The objects are in the order of a scene, so it is known for no more than two of them.
    """
    if claim.third:
        return [UNSAID] * 12
    things = thing_code(claim.first) + thing_code(claim.second)
    return [*things, *[UNSAID] * 3, CANONICAL.index(claim.relation) if claim.relation else UNSAID, UNSAID, UNSAID]


def _shown(scene: Scene) -> list[int]:
    """The same of a scene; a third object that is not there is unsaid."""
    things = [code for one in scene.objects for code in thing_code(one.thing)]
    axes = [CANONICAL.index(relation_of(a, b)) for a, b in combinations(scene.objects, 2)]
    absent = [UNSAID] * (3 - len(scene.objects))
    return [*things, *absent * 3, *axes, *absent * 2]


def padded(ids: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and their attention mask."""
    length = max(map(len, ids))
    tokens = torch.tensor([one + [pad] * (length - len(one)) for one in ids])
    attention = torch.tensor([[1] * len(one) + [0] * (length - len(one)) for one in ids])
    return tokens, attention
