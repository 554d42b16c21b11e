"""A loaded checkpoint in use: numpy in, numpy out, in calls of bounded size."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batching import chunks, pad, within_memory
from model.bridgetower import BridgeTower, Fused, ImageStates, TextStates
from model.errors import ModelError
from model.prepare import Pixels, Preparer

Vectors = npt.NDArray[np.float32]


class Embeddings(NamedTuple):
    """One pass over P pairs: vectors (P, dimension) of unit length, scores (P,), all float32."""

    image: Vectors
    text: Vectors
    cross: Vectors
    itc_score: npt.NDArray[np.float32]
    itm_score: npt.NDArray[np.float32]


class Word(NamedTuple):
    """A word that may stand for a `<mask>`, with its probability."""

    text: str
    probability: float


class Encoder:
    """BridgeTower with its preprocessing; `micro_batch` bounds pictures, and pairs, in one call."""

    def __init__(self, tower: BridgeTower, preparer: Preparer, micro_batch: int = 64) -> None:
        self.tower = tower
        self.preparer = preparer
        self.micro_batch = micro_batch
        self._pad_id = tower.config.text_config.pad_token_id
        self._exact: Encoder | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tower.levels.device

    @within_memory
    @torch.inference_mode()
    def embed(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Sequence[int]) -> Embeddings:
        """Embed P pairs of N pictures; a picture is encoded once for all its captions.

        Args:
            pixels: (N, size, size, 3) uint8.
            token_ids: P captions, unpadded; those of one picture stand together.
            image_of: (P,), the picture of each caption, never decreasing.
        """
        self._need("itc_text_head", "embed: the checkpoint has no ITC head")
        self._need("itm_score", "score pairs: the checkpoint has no ITM head")
        of = np.asarray(image_of, dtype=np.int64)
        if len(of) != len(token_ids) or (np.diff(of, prepend=0) < 0).any() or (of >= len(pixels)).any():
            raise ValueError(
                f"image_of must give each of {len(token_ids)} captions one of {len(pixels)} pictures, in order"
            )
        none = np.empty((0, self.tower.itc_text_head.fc.out_features), dtype=np.float32)
        parts = [Embeddings(none, none, none, none[:, 0], none[:, 0])]
        for part in chunks(len(pixels), self.micro_batch):
            first, last = np.searchsorted(of, [part.start, part.stop])
            if first == last:
                continue
            images = self._encode_images(pixels[part])
            for few in chunks(int(last - first), self.micro_batch):
                rows = slice(first + few.start, first + few.stop)
                parts.append(self._embed_call(images, token_ids[rows], of[rows] - part.start))
        return Embeddings(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @within_memory
    def embed_exactly(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Sequence[int]) -> Embeddings:
        """The same in float32, by a copy of the tower that is made when it is first needed."""
        if self._exact is None:
            exact = self.tower.compute_dtype == torch.float32
            self._exact = self if exact else Encoder(_in_float32(self.tower), self.preparer, self.micro_batch)
        return self._exact.embed(pixels, token_ids, image_of)

    def _embed_call(
        self, images: ImageStates, token_ids: Sequence[Sequence[int]], of: npt.NDArray[np.int64]
    ) -> Embeddings:
        text = self._encode_text(token_ids)
        image_of = torch.as_tensor(of, device=self.device)
        fused = self.tower.fuse(text, images, torch.arange(len(token_ids), device=self.device), image_of)
        image, words = _itc(images.embedding).index_select(0, image_of), _itc(text.embedding)
        itc = (image * words).sum(-1)
        outputs = (image, words, self.tower.cross_embedding(fused), itc, self._match(fused))
        return Embeddings(*(o.cpu().numpy() for o in outputs))

    @within_memory
    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """`text_embeds` (B, dimension): the text tower alone."""
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        return self._embed_side(lambda part: self._encode_text(ids[part]), len(ids))

    @within_memory
    @torch.inference_mode()
    def embed_images(self, pixels: Pixels) -> Vectors:
        """`image_embeds` (N, dimension): the vision tower alone."""
        return self._embed_side(lambda part: self._encode_images(pixels[part]), len(pixels))

    def _embed_side(self, encode: Callable[[slice], TextStates | ImageStates], count: int) -> Vectors:
        self._need("itc_text_head", "embed: the checkpoint has no ITC head")
        parts = [_itc(encode(part).embedding).cpu().numpy() for part in chunks(count, self.micro_batch)]
        return np.concatenate([np.empty((0, self.tower.itc_text_head.fc.out_features), dtype=np.float32), *parts])

    @within_memory
    @torch.inference_mode()
    def match(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """ITM probability (B, N) of each text with each picture; pictures are encoded once."""
        self._need("itm_score", "match pictures and text: the checkpoint has no ITM head")
        if not texts:
            return np.empty((0, len(pixels)), dtype=np.float32)
        text = self._encode_text([ids for ids, _ in self.preparer.captions(texts)])
        columns = [np.empty((len(texts), 0), dtype=np.float32)]
        for part in chunks(len(pixels), self.micro_batch):
            images, count = self._encode_images(pixels[part]), part.stop - part.start
            text_of = torch.arange(len(texts), device=self.device).repeat_interleave(count)
            image_of = torch.arange(count, device=self.device).repeat(len(texts))
            scores = [
                self._match(self.tower.fuse(text, images, text_of[few], image_of[few]))
                for few in chunks(len(text_of), self.micro_batch)
            ]
            columns.append(torch.cat(scores).view(len(texts), count).cpu().numpy())
        return np.concatenate(columns, axis=1)

    @within_memory
    @torch.inference_mode()
    def fill_mask(self, pixels: Pixels, texts: Sequence[str], top_k: int = 5) -> list[list[list[Word]]]:
        """The likeliest words for each `<mask>` of each text, as seen with its picture.

        As in transformers' documentation of BridgeTowerForMaskedLM.

        Returns:
            For each text, for each of its masks, `top_k` words, the likeliest first.
        """
        self._need("mlm_score", "fill masks: the checkpoint has no MLM head")
        if len(pixels) != len(texts):
            raise ValueError(f"{len(pixels)} pictures for {len(texts)} texts: each text is read with its own picture")
        mask_id = self.preparer.token("<mask>")
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        filled: list[list[list[Word]]] = []
        for part in chunks(len(ids), self.micro_batch):
            pairs = torch.arange(part.stop - part.start, device=self.device)
            fused = self.tower.fuse(self._encode_text(ids[part]), self._encode_images(pixels[part]), pairs, pairs)
            # Only where a mask is: a whole vocabulary for every token would be gigabytes.
            at = [
                (row, i) for row, tokens in enumerate(ids[part]) for i, token in enumerate(tokens) if token == mask_id
            ]
            rows, columns = torch.tensor(at, dtype=torch.int64).reshape(-1, 2).to(self.device).unbind(1)
            logits = self.tower.mlm_logits(Fused(fused.pooled, fused.text_features[rows, columns]))
            best = logits.softmax(-1).topk(top_k)
            masks: list[list[list[Word]]] = [[] for _ in ids[part]]
            for (row, _), probabilities, tokens in zip(at, best.values, best.indices, strict=True):
                masks[row].append(self._words(probabilities, tokens))
            filled += masks
        return filled

    def _words(self, probabilities: Tensor, tokens: Tensor) -> list[Word]:
        pairs = zip(tokens.tolist(), probabilities.tolist(), strict=True)
        return [Word(self.preparer.text([token]).strip(), p) for token, p in pairs]

    def _encode_text(self, token_ids: Sequence[Sequence[int]]) -> TextStates:
        padded = pad(token_ids, self._pad_id, self.device)
        return self.tower.encode_text(padded.input_ids, padded.attention_mask)

    def _encode_images(self, pixels: Pixels) -> ImageStates:
        side = self.preparer.size
        if pixels.shape[1:] != (side, side, 3) or pixels.dtype != np.uint8:
            raise ModelError(f"pictures of shape {pixels.shape[1:]} {pixels.dtype}: wanted ({side}, {side}, 3) uint8")
        channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        return self.tower.encode_images(channels_first.to(self.device))

    def _match(self, fused: Fused) -> Tensor:
        return self.tower.itm_logits(fused).softmax(-1)[:, 1]

    def _need(self, head: str, what: str) -> None:
        if getattr(self.tower, head) is None:
            raise ModelError(f"cannot {what}")


def _itc(embedding: Tensor | None) -> Tensor:
    if embedding is None:
        raise ModelError("cannot embed: the checkpoint has no ITC head")
    return embedding


def _in_float32(tower: BridgeTower) -> BridgeTower:
    """A copy, beside the tower if the GPU has room for both, else on the CPU."""
    device = tower.levels.device
    copy: BridgeTower = deepcopy(tower.to("cpu")).cast(torch.float32)  # not on the GPU, which may be all but full
    tower.to(device)
    try:
        copy.to(device)
    except torch.OutOfMemoryError:
        copy.to("cpu")
    return copy
