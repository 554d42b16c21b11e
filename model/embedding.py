"""A batch of pairs -> vectors and scores, in calls that are queued one after another without waiting for the device."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from model.batching import Call, Indexes, Shapes, cut, pad
from model.bridgetower import BridgeTower, ImageStates
from model.compiled import Compiled
from model.errors import ModelError
from model.prepare import Pixels
from model.tags import Found, Tagger, Tags
from model.transfer import Results, ahead, copier

Vectors = npt.NDArray[np.float32]
_IN_EIGHTS = Shapes(rows=8, tokens=8)
_STAND_IN = 8  # grey pairs on which the stages are compiled


class Embeddings(NamedTuple):
    """One pass over P pairs: vectors (P, dimension) of unit length, scores (P,), all float32; tags if asked for."""

    image: Vectors
    text: Vectors
    cross: Vectors
    itc_score: npt.NDArray[np.float32]
    itm_score: npt.NDArray[np.float32]
    tags: Tags | None = None


class Queued(NamedTuple):
    """Pairs that the device was handed; their results are on their way to the host."""

    results: Callable[[], Results]
    order: Indexes  # of the pairs in the results
    width: int  # of a vector
    tagger: Tagger | None

    def wait(self) -> tuple[Embeddings, float]:
        """What came of them, and the seconds that the device took; the only wait."""
        (rows, *tags), seconds = self.results()
        found = rows.numpy()[self.order]
        image, text, cross, scores = np.split(found, [self.width, 2 * self.width, 3 * self.width], axis=1)
        told = self.tagger.told(Found(*tags), self.order) if self.tagger else None
        return Embeddings(image, text, cross, scores[:, 0], scores[:, 1], told), seconds


class Embedding:
    """The whole pass of a tower that has an ITC and an ITM head; with a `tagger`, words for each picture too."""

    def __init__(self, tower: BridgeTower, tagger: Tagger | None = None) -> None:
        self._tower = tower
        self._tagger = tagger
        self._stages: BridgeTower | Compiled = tower
        self._device = tower.levels.device
        self._shapes = _IN_EIGHTS if self._device.type == "cuda" else Shapes()
        self._copier = copier(self._device)
        text = tower.config.text_config
        self._pad_id = text.pad_token_id
        self._most = text.max_position_embeddings - text.pad_token_id - 1  # Roberta counts on from the padding's

    def compile(self, compiled: Compiled) -> float:
        """Take the compiled stages from now on, after a first batch.

        Returns:
            The seconds that compiling took; 0 where it cannot be done here, which is told, and changes nothing else.
        """
        plain = self._stages, self._shapes
        self._stages, self._shapes = compiled, _IN_EIGHTS
        side = self._tower.config.vision_config.image_size
        grey = np.full((_STAND_IN, side, side, 3), 128, dtype=np.uint8)
        began = time.perf_counter()
        try:
            self(grey, [[self._pad_id] * 16] * _STAND_IN, np.arange(_STAND_IN), _STAND_IN)
        except TorchDynamoException as error:
            self._stages, self._shapes = plain
            hint = "; --compile off is quicker then" if self._device.type == "cpu" else ""  # its weights are packed
            note = f"note: torch.compile does not work here, so computing without{hint}: {_first(error)}"
            print(note, file=sys.stderr)
            return 0.0
        return time.perf_counter() - began

    def __call__(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Indexes, size: int) -> Embeddings:
        """Embed P pairs of N pictures, at most `size` of each in a call."""
        return self.queue(pixels, token_ids, image_of, size).wait()[0]

    @torch.inference_mode()  # the stages compiled in another mode would be compiled again
    def queue(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Indexes, size: int) -> Queued:
        """Hand the same to the device, without waiting for what comes of it."""
        send = self._copier.back()
        lengths = np.fromiter((len(ids) for ids in token_ids), dtype=np.int64, count=len(token_ids))
        calls = cut(image_of, lengths, size)
        width = self._tower.itc_text_head.fc.out_features
        rows = [torch.empty(0, 3 * width + 2, device=self._device)]
        tags = [self._tagger.none] if self._tagger else []
        parts = ((pixels, self._filled(call.pictures)) for call in calls)
        for call, there in zip(calls, ahead(parts, self._copier), strict=True):
            images = self._stages.encode_images(there.permute(0, 3, 1, 2))
            rows += [self._pairs(images, few, token_ids) for few in _evenly(call, size)]
            if self._tagger:
                tags.append(self._tagger(self._stages, images).of(self._sent(torch.from_numpy(call.image_of))))
        order = np.argsort(np.concatenate([np.empty(0, dtype=np.int64), *(call.pairs for call in calls)]))
        results = send([torch.cat(rows), *map(torch.cat, zip(*tags, strict=True))])
        return Queued(results, order, width, self._tagger)

    def _pairs(self, images: ImageStates, call: Call, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """One row a pair: its three vectors and its two scores."""
        tower, count = self._tower, len(call.pairs)
        padded = pad([token_ids[i] for i in call.pairs], self._pad_id, self._shapes, self._most)
        text = self._stages.encode_text(self._sent(padded.input_ids), self._sent(padded.attention_mask))
        image_of = self._sent(torch.from_numpy(self._filled(call.image_of)))
        fused = self._stages.fuse(text, images, torch.arange(len(image_of), device=self._device), image_of)
        image, words = itc(images.embedding).index_select(0, image_of), itc(text.embedding)
        cosine, match = (image * words).sum(-1), tower.itm_logits(fused).softmax(-1)[:, 1]
        return torch.cat([image, words, tower.cross_embedding(fused), cosine[:, None], match[:, None]], dim=1)[:count]

    def _filled(self, indexes: Indexes) -> Indexes:
        """As many as a call is padded to; the first stands in."""
        return np.pad(indexes, (0, self._shapes.count(len(indexes)) - len(indexes)), constant_values=indexes[0])

    def _sent(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor


def itc(embedding: Tensor | None) -> Tensor:
    """A side's ITC embedding, which a tower without that head does not make."""
    if embedding is None:
        raise ModelError("cannot embed: the checkpoint has no ITC head")
    return embedding


def _evenly(call: Call, size: int) -> Iterator[Call]:
    """The pairs of a call in as few parts as can be, of like size."""
    parts = -(-len(call.pairs) // size)
    for pairs, image_of in zip(np.array_split(call.pairs, parts), np.array_split(call.image_of, parts), strict=True):
        yield Call(call.pictures, pairs, image_of)


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
