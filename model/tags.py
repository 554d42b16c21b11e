"""The likeliest words for a picture: it is fused once with a prompt, and the MLM head reads the mask's place alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batching import Indexes
from model.blank import Blank, whole_words
from model.bridgetower import BridgeTower, Fused, ImageStates
from model.compiled import Compiled
from model.errors import ModelError
from model.prepare import Preparer


class Tags(NamedTuple):
    """Of P pairs' pictures the k likeliest words, the first the likeliest: texts, and probabilities (P, k) float32."""

    words: list[list[str]]
    probabilities: npt.NDArray[np.float32]


class Found(NamedTuple):
    """The same on the device: which words, and their probabilities, both (N, k)."""

    words: Tensor
    probabilities: Tensor

    def of(self, index: Tensor) -> "Found":
        """Those of pairs, given as indexes (P,) into the pictures."""
        return Found(self.words.index_select(0, index), self.probabilities.index_select(0, index))


class Tagger:
    """A prompt, read once by the text tower, and the words that may fill its blank."""

    @torch.inference_mode()
    def __init__(self, tower: BridgeTower, preparer: Preparer, blank: Blank) -> None:
        if tower.mlm_score is None:
            raise ModelError("cannot fill masks: the checkpoint has no MLM head")
        ids, self._at = blank.tokens(preparer)
        words = whole_words(preparer)
        spelt = [(word, token) for word, tokens in enumerate(words.values()) for token in tokens]
        self._tower = tower
        self._words = list(words)
        self._count = min(blank.words, len(words))
        self._of, self._tokens = torch.tensor(spelt, device=tower.levels.device).unbind(1)
        prompt = torch.tensor([ids], device=tower.levels.device)
        self._text = tower.encode_text(prompt, torch.ones_like(prompt))

    def __call__(self, stages: BridgeTower | Compiled, images: ImageStates) -> Found:
        """The likeliest words of N encoded pictures.

        A word's probability is the sum over its spellings, of a softmax over the whole vocabulary.
        """
        every = torch.arange(len(images.layers[0]), device=self._tokens.device)
        fused = stages.fuse(self._text, images, torch.zeros_like(every), every, every_token=True)
        logits = self._tower.mlm_logits(Fused(fused.pooled, fused.text_features[:, self._at]))
        spellings = logits.softmax(-1)[:, self._tokens]
        of_words = spellings.new_zeros(len(every), len(self._words)).index_add_(1, self._of, spellings)
        best = of_words.topk(self._count)
        return Found(best.indices, best.values)

    @property
    def none(self) -> Found:
        """Of no pictures."""
        words = self._tokens.new_empty(0, self._count)
        return Found(words, words.to(torch.float32))

    def told(self, found: Found, order: Indexes) -> Tags:
        """What was found, on the host by now, in the order that is told."""
        words, probabilities = (column.numpy()[order] for column in found)
        return Tags([[self._words[i] for i in row] for row in words], probabilities)
