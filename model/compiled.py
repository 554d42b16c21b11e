"""The three stages of a tower through torch.compile: slow once, faster afterwards."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from model.bridgetower import BridgeTower, Fused, ImageStates, TextStates


class Compiled:
    """`encode_text`, `encode_images` and `fuse` of a tower, compiled when they are first called.

    Rows and tokens stay free, so that there is one graph of each stage whatever a batch holds;
    with `static` there is one for each shape. Fewer than two rows would be a graph of their own.
    """

    def __init__(self, tower: BridgeTower, *, static: bool = False, backend: str = "inductor") -> None:
        self._static = static

        def compiled(stage: Callable[..., Any]) -> Callable[..., Any]:
            made: Callable[..., Any] = torch.compile(stage, backend=backend, dynamic=False if static else None)
            return made

        self._encode_text = compiled(tower.encode_text)
        self._encode_images = compiled(tower.encode_images)
        self._fuse = compiled(tower.fuse)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextStates:
        """As `BridgeTower.encode_text`."""
        self._free((input_ids, attention_mask), 0, 1)
        states: TextStates = self._encode_text(input_ids, attention_mask)
        return states

    def encode_images(self, pixels: Tensor) -> ImageStates:
        """As `BridgeTower.encode_images`."""
        self._free((pixels,), 0)
        states: ImageStates = self._encode_images(pixels)
        return states

    def fuse(
        self, text: TextStates, images: ImageStates, text_of: Tensor, image_of: Tensor, every_token: bool = False
    ) -> Fused:
        """As `BridgeTower.fuse`."""
        words, seen = text.opening, images.opening
        self._free((text_of, image_of, *images.layers, seen.states, seen.query, seen.key, seen.value), 0)
        self._free((*text.layers, words.states), 0, 1)
        self._free((words.query, words.key, words.value), 0, 2)
        self._free((text.mask,), 0, 3)
        fused: Fused = self._fuse(text, images, text_of, image_of, every_token)
        return fused

    def _free(self, tensors: Iterable[Tensor], *dimensions: int) -> None:
        if not self._static:
            for tensor in tensors:
                torch._dynamo.maybe_mark_dynamic(tensor, dimensions)
