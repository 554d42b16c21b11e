"""How well a model understands scenes that it has not seen: retrieval, altered captions, masked words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo import captions
from demo.captions import Alteration
from demo.data import padded
from demo.draw import draw
from demo.scenes import COLOURS, SHAPES, Claim, Scene, generator, is_true
from demo.truth import truth
from model.bridgetower import BridgeTower, Fused, ImageStates, TextStates
from model.prepare import Preparer

Floats = npt.NDArray[np.float32]
CHUNK = 256


@dataclass(frozen=True)
class Figures:
    """What was measured, each between 0 and 1."""

    itc_r1: float
    itc_r10: float
    reranked_r1: float
    auc_colours: float
    auc_shapes: float
    auc_relation: float
    masked_colour: float
    masked_shape: float


def auc(positive: Floats, negative: Floats) -> float:
    """Chance that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.mean() / 2 / len(negative))


def recall(scores: Floats, relevant: npt.NDArray[np.bool_], top: int) -> float:
    """Share of rows with something relevant among the `top` highest scores."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return float(np.take_along_axis(relevant, best, axis=1).any(axis=1).mean())


class Exam:
    """Unseen scenes, a caption of each, and the questions about them. All from one seed."""

    def __init__(self, model: BridgeTower, prepare: Preparer, seed: int, scenes: list[Scene]) -> None:
        self.model, self.prepare, self.scenes = model, prepare, scenes
        self.device = next(model.parameters()).device
        self.rng = generator(seed)
        self.facts = [captions.told(scene, self.rng) for scene in scenes]
        pictures = np.stack([prepare.picture(draw(scene)) for scene in scenes])
        self.pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().to(self.device)

    def _say(self, claims: list[Claim]) -> list[str]:
        return [captions.phrase(captions.reordered(claim, 50, self.rng), self.rng) for claim in claims]

    def _text(self, ids: list[list[int]]) -> TextStates:
        tokens, attention = padded(ids, self.prepare.token("<pad>"))
        return self.model.encode_text(tokens.to(self.device), attention.to(self.device))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [ids for ids, _ in self.prepare.captions(texts)]

    def _pairs(self, ids: list[list[int]], image_of: list[int]) -> Iterator[tuple[TextStates, ImageStates, Tensor]]:
        """Texts and the picture of each, encoded in chunks; pair i of a chunk is text i and picture i."""
        for start in range(0, len(ids), CHUNK):
            pixels = self.pixels[image_of[start : start + CHUNK]]
            own = torch.arange(len(pixels), device=self.device)
            yield self._text(ids[start : start + CHUNK]), self.model.encode_images(pixels), own

    def _match(self, texts: list[str], image_of: list[int]) -> Floats:
        """The ITM margin of each text and its picture."""
        pairs = self._pairs(self._ids(texts), image_of)
        return np.concatenate([self._margin(self.model.fuse(text, images, own, own)) for text, images, own in pairs])

    def _margin(self, fused: Fused) -> Floats:
        """ITM logit of "they match" less that of "they do not"."""
        logits = self.model.itm_logits(fused)
        return np.asarray((logits[:, 1] - logits[:, 0]).float().cpu().numpy())

    def retrieval(self, rerank: int) -> tuple[float, float, float]:
        """R@1 and R@10 by ITC, and R@1 after the best `rerank` are ordered by ITM."""
        claims = [captions.reordered(claim, 50, self.rng) for claim in self.facts]
        texts = [captions.phrase(claim, self.rng) for claim in claims]
        relevant = truth(claims, self.scenes)
        # Each text and picture is encoded once, however many pairs it stands in.
        text, images = self._text(self._ids(texts)), self.model.encode_images(self.pixels)
        if text.embedding is None or images.embedding is None:
            raise ValueError("the checkpoint has no ITC head")
        scores = (text.embedding @ images.embedding.T).float().cpu().numpy()
        r1, r10 = recall(scores, relevant, 1), recall(scores, relevant, 10)
        if rerank == 0:
            return r1, r10, 0.0
        best = np.argsort(-scores, axis=1, kind="stable")[:, :rerank]
        text_of = torch.arange(len(texts), device=self.device).repeat_interleave(rerank)
        image_of = torch.from_numpy(best.ravel()).to(self.device)
        parts = zip(torch.split(text_of, CHUNK), torch.split(image_of, CHUNK), strict=True)
        matched = np.concatenate([self._margin(self.model.fuse(text, images, t, i)) for t, i in parts])
        return r1, r10, recall(matched.reshape(best.shape), np.take_along_axis(relevant, best, axis=1), 1)

    def swap(self, how: Alteration) -> float:
        """ITM's AUC between true captions and the same altered; scenes where both are true are left out."""
        kept, wrong = [], []
        for index, claim in enumerate(self.facts):
            changed = captions.altered(claim, how, self.rng)
            if not is_true(changed, self.scenes[index]):
                kept.append(index)
                wrong.append(changed)
        right = self._match(self._say([self.facts[index] for index in kept]), kept)
        return auc(right, self._match(self._say(wrong), kept))

    def masked(self, vocabulary: tuple[str, ...]) -> float:
        """Share of the words of this vocabulary, masked one at a time, that the MLM head gives back."""
        known = {ids[1] for form in vocabulary for ids in self._ids([form, " " + form])}
        asked: list[tuple[list[int], int, int]] = []  # the tokens, the masked place, the scene
        for index, ids in enumerate(self._ids(self._say(self.facts))):
            asked += [(ids, place, index) for place, token in enumerate(ids) if token in known]
        hidden = [[*ids[:place], self.prepare.token("<mask>"), *ids[place + 1 :]] for ids, place, _ in asked]
        right = 0
        for start, (text, images, own) in zip(
            range(0, len(asked), CHUNK), self._pairs(hidden, [scene for _, _, scene in asked]), strict=True
        ):
            fused = self.model.fuse(text, images, own, own, every_token=True)
            guesses = self.model.mlm_logits(fused).argmax(-1).cpu()
            right += sum(
                int(guess[place]) == ids[place]
                for guess, (ids, place, _) in zip(guesses, asked[start : start + CHUNK], strict=True)
            )
        return right / len(asked)


@torch.no_grad()
def measure(model: BridgeTower, prepare: Preparer, seed: int, scenes: list[Scene], rerank: int = 20) -> Figures:
    """Everything that can be measured on these scenes; the captions come from `seed`."""
    exam = Exam(model, prepare, seed, scenes)
    r1, r10, reranked = exam.retrieval(rerank)
    colours, shapes, relation = (exam.swap(how) for how in captions.SWAPS)
    return Figures(
        itc_r1=r1,
        itc_r10=r10,
        reranked_r1=reranked,
        auc_colours=colours,
        auc_shapes=shapes,
        auc_relation=relation,
        masked_colour=exam.masked(tuple(COLOURS)),
        masked_shape=exam.masked(SHAPES),
    )
