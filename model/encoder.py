"""A loaded checkpoint in use: numpy in, numpy out, in calls of bounded size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batching import Indexes, Shapes, chunks, ordered, pad, waited_for, within_memory
from model.blank import MASK, Blank
from model.bridgetower import BridgeTower, Fused, ImageStates, TextStates
from model.checkpoint import in_float32
from model.compiled import Compiled
from model.embedding import Embedding, Embeddings, Queued, Vectors, itc
from model.errors import ModelError
from model.fp8 import computes_in
from model.masks import Word, fill
from model.prepare import Pixels, Preparer
from model.search import Search
from model.tags import Tagger


class Encoder:
    """BridgeTower with its preprocessing; `micro_batch` bounds pictures, and pairs, in one call.

    With a `blank`, which needs an MLM head, `embed` also tells the words that may fill it for each picture.
    """

    def __init__(
        self, tower: BridgeTower, preparer: Preparer, micro_batch: int = 64, blank: Blank | None = None
    ) -> None:
        self.tower = tower
        self.preparer = preparer
        self.micro_batch = micro_batch
        self.dtype = computes_in(tower, tower.compute_dtype)
        self._pad_id = tower.config.text_config.pad_token_id
        self._embedding = Embedding(tower, Tagger(tower, preparer, blank) if blank else None)
        self._search: Search | None = None
        self._exact: Encoder | None = None
        self._blank = blank
        self.compiled: float | None = None  # in so many seconds; 0 where it was tried and cannot be done

    def compile(self) -> float:
        """Compile what `embed` computes; returns the seconds that it took."""
        self.compiled = self._embedding.compile(Compiled(self.tower))
        return self.compiled

    def find_micro_batch(self) -> None:
        """Let the next batches find the micro-batch in which `embed` is fastest."""
        self._search = Search()
        self.micro_batch = self._search.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tower.levels.device

    def embed(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Sequence[int]) -> Embeddings:
        """Embed P pairs of N pictures; a picture is encoded once for all its captions.

        Args:
            pixels: (N, size, size, 3) uint8.
            token_ids: P captions, unpadded; those of one picture stand together.
            image_of: (P,), the picture of each caption, never decreasing.
        """
        ((found, _),) = self.embed_each([(pixels, token_ids, image_of)])
        return found

    def embed_each(
        self, calls: Iterable[tuple[Pixels, Sequence[Sequence[int]], Sequence[int]]]
    ) -> Iterator[tuple[Embeddings, float]]:
        """The same for one call's pairs after another, with the seconds that the device took for each.

        A GPU is handed the next call before the last one's results are waited for, so that it computes while they
        are used.
        """
        self._need("itc_text_head", "embed: the checkpoint has no ITC head")
        self._need("itm_score", "score pairs: the checkpoint has no ITM head")
        under_way: deque[tuple[Queued, int]] = deque()
        for pixels, token_ids, image_of in calls:
            self._check(pixels)
            of = ordered(image_of, len(token_ids), len(pixels))
            under_way.append((self._queued(pixels, token_ids, of), len(pixels)))
            while len(under_way) > self._ahead:
                yield self._embedded(*under_way.popleft())
        while under_way:
            yield self._embedded(*under_way.popleft())

    @property
    def _ahead(self) -> int:
        """Calls under way while another's results are used; none where each is timed, or is done at once."""
        return int(self.device.type == "cuda" and (self._search is None or self._search.settled))

    @within_memory
    def _queued(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Indexes) -> Queued:
        return self._embedding.queue(pixels, token_ids, image_of, self.micro_batch)

    def _embedded(self, queued: Queued, pictures: int) -> tuple[Embeddings, float]:
        found, seconds = waited_for(queued.wait)
        if self._search:
            self.micro_batch = self._search.after(self.micro_batch, pictures, len(found.itc_score), seconds)
        return found, seconds

    @within_memory
    def embed_exactly(self, pixels: Pixels, token_ids: Sequence[Sequence[int]], image_of: Sequence[int]) -> Embeddings:
        """The same in float32, by a copy of the tower that is made when it is first needed."""
        if self._exact is None and self.tower.compute_dtype == torch.float32:
            self._exact = self
        elif self._exact is None:
            self._exact = Encoder(in_float32(self.tower), self.preparer, self.micro_batch, self._blank)
        return self._exact.embed(pixels, token_ids, image_of)

    @within_memory
    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """`text_embeds` (B, dimension): the text tower alone."""
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        return self._embed_side(lambda part: self.tower.text_embedding(*self._tokens(ids[part])), len(ids))

    @within_memory
    @torch.inference_mode()
    def embed_images(self, pixels: Pixels) -> Vectors:
        """`image_embeds` (N, dimension): the vision tower alone."""
        return self._embed_side(lambda part: self.tower.image_embedding(self._pixels(pixels[part])), len(pixels))

    def _embed_side(self, encode: Callable[[slice], Tensor | None], count: int) -> Vectors:
        self._need("itc_text_head", "embed: the checkpoint has no ITC head")
        parts = [itc(encode(part)).cpu().numpy() for part in chunks(count, self.micro_batch)]
        return np.concatenate([np.empty((0, self.tower.itc_text_head.fc.out_features), dtype=np.float32), *parts])

    @within_memory
    @torch.inference_mode()
    def embed_pairs(self, pixels: Pixels, texts: Sequence[str]) -> Vectors:
        """`cross_embeds` (N, dimension) of N pictures, each fused with its own text."""
        self._need("itc_cross_modal_head", "embed: the checkpoint has no ITC head")
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        none = np.empty((0, self.tower.itc_cross_modal_head.fc.out_features), dtype=np.float32)
        found = [self.tower.cross_embedding(fused).cpu().numpy() for _, fused in self._fused(pixels, ids)]
        return np.concatenate([none, *found])

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
    def margins(
        self, pixels: Pixels, texts: Sequence[str], text_of: npt.NDArray[np.int64], image_of: npt.NDArray[np.int64]
    ) -> Vectors:
        """ITM logit of "they match" less that of "they do not", (P,), of pairs given by their indexes.

        Pictures are encoded once; so are texts, where the pairs of one stand together.
        """
        self._need("itm_score", "match pictures and text: the checkpoint has no ITM head")
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        found = np.empty(len(text_of), dtype=np.float32)
        for part in chunks(len(pixels), self.micro_batch):
            images = self._encode_images(pixels[part])
            mine = np.flatnonzero((image_of >= part.start) & (image_of < part.stop))
            for few in chunks(len(mine), self.micro_batch):
                pairs = mine[few]
                used, text = np.unique(text_of[pairs], return_inverse=True)
                of = torch.as_tensor(image_of[pairs] - part.start, device=self.device)
                states = self._encode_text([ids[i] for i in used])
                logits = self.tower.itm_logits(
                    self.tower.fuse(states, images, torch.as_tensor(text, device=self.device), of)
                )
                found[pairs] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        return found

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
        mask = self.preparer.token(MASK)
        ids = [ids for ids, _ in self.preparer.captions(texts)]
        filled: list[list[list[Word]]] = []
        for part, fused in self._fused(pixels, ids, every_token=True):
            filled += fill(self.tower, self.preparer, fused, ids[part], mask, top_k)
        return filled

    def _fused(
        self, pixels: Pixels, token_ids: Sequence[Sequence[int]], *, every_token: bool = False
    ) -> Iterator[tuple[slice, Fused]]:
        """Pictures, each with its own text, in calls."""
        for part in chunks(len(token_ids), self.micro_batch):
            pairs = torch.arange(len(token_ids[part]), device=self.device)
            text, images = self._encode_text(token_ids[part]), self._encode_images(pixels[part])
            yield part, self.tower.fuse(text, images, pairs, pairs, every_token=every_token)

    def _encode_text(self, token_ids: Sequence[Sequence[int]]) -> TextStates:
        return self.tower.encode_text(*self._tokens(token_ids))

    def _encode_images(self, pixels: Pixels) -> ImageStates:
        return self.tower.encode_images(self._pixels(pixels))

    def _tokens(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        padded = pad(token_ids, self._pad_id, Shapes(), self.preparer.max_tokens)
        return padded.input_ids.to(self.device), padded.attention_mask.to(self.device)

    def _pixels(self, pixels: Pixels) -> Tensor:
        self._check(pixels)
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)

    def _check(self, pixels: Pixels) -> None:
        side = self.preparer.size
        if pixels.shape[1:] != (side, side, 3) or pixels.dtype != np.uint8:
            raise ModelError(f"pictures of shape {pixels.shape[1:]} {pixels.dtype}: wanted ({side}, {side}, 3) uint8")

    def _match(self, fused: Fused) -> Tensor:
        return self.tower.itm_logits(fused).softmax(-1)[:, 1]

    def _need(self, head: str, what: str) -> None:
        if getattr(self.tower, head) is None:
            raise ModelError(f"cannot {what}")
