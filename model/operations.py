"""How many operations a pair costs, counted from a checkpoint's configuration alone. No torch: a head has none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the matrices; what a configuration leaves out has the default of transformers."""

    hidden: int  # width of the text tower and of the fusion
    inner: int
    layers: int  # of each tower
    depth: int  # of the fusion
    seen: int  # width of the vision tower
    patch: int
    side: int
    dimension: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Sizes":
        """Of a checkpoint's config.json."""
        text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
        return cls(
            hidden=config.get("hidden_size", 768),
            inner=text.get("intermediate_size", 3072),
            layers=text.get("num_hidden_layers", 12),
            depth=config.get("num_hidden_layers", 6),
            seen=vision.get("hidden_size", 768),
            patch=vision.get("patch_size", 16),
            side=vision.get("image_size", 288),
            dimension=config.get("contrastive_hidden_size") or 512,
            vocabulary=text.get("vocab_size", 50265),
        )

    @property
    def tokens(self) -> int:
        """Of a picture: its patches, and the first."""
        return (self.side // self.patch) ** 2 + 1

    def picture(self) -> float:
        """The vision tower, and what the fusion does with a picture before it meets a caption."""
        count, wide = self.tokens, self.seen
        patches = 6 * (count - 1) * self.patch**2 * wide
        blocks = self.layers * (24 * count * wide**2 + 4 * count**2 * wide)
        moved = 2 * self.depth * count * wide * self.hidden
        return patches + blocks + moved + self._opened(1 if self.depth == 1 else count, count) + self._head()

    def caption(self, tokens: float) -> float:
        """The text tower, and what the fusion does with a caption before it meets a picture."""
        blocks = self.layers * (self._attended(tokens, tokens) + 4 * tokens * self.hidden * self.inner)
        moved = 2 * self.depth * tokens * self.hidden**2
        return blocks + moved + self._opened(tokens, tokens) + self._head()

    def pair(self, tokens: float, *, every_token: bool = False) -> float:
        """The rest of the fusion, whose last layer computes the first token of each side, or every one of the text."""
        seen, wide = self.tokens, self.hidden
        total = 4.0 * wide**2  # the poolers
        for i in range(self.depth):
            last = i == self.depth - 1
            words, patches = tokens if every_token or not (last and i) else 1, 1 if last else seen
            for asked, own, other in ((words, tokens, seen), (patches, seen, tokens)):
                total += 4 * asked * other * wide + 2 * asked * wide**2 + 4 * asked * wide * self.inner
                if i:  # the first layer's own side, and its keys, are told above
                    total += self._attended(asked, own) + 2 * asked * wide**2 + 4 * other * wide**2
        return total

    def tags(self, prompt: int) -> float:
        """A picture fused with a prompt of so many tokens, one of which goes through the MLM head."""
        return self.pair(prompt, every_token=True) + 2 * self.hidden * (self.hidden + self.vocabulary)

    def _attended(self, asked: float, own: float) -> float:
        """Self-attention of a layer, of which only some tokens are asked for."""
        return 4 * asked * self.hidden**2 + 4 * own * self.hidden**2 + 4 * asked * own * self.hidden

    def _opened(self, asked: float, own: float) -> float:
        return self._attended(asked, own) + 2 * asked * self.hidden**2 + 4 * own * self.hidden**2

    def _head(self) -> float:
        return 2 * self.hidden * self.dimension


def operations_a_pair(sizes: Sizes, tokens: float, captions: float, prompt: int = 0) -> float:
    """Multiplications and additions of a pair, each counted as one: towers and fusion, without the last small heads.

    Args:
        sizes: of the checkpoint.
        tokens: of a caption.
        captions: of a picture, which share its vision pass.
        prompt: tokens of the prompt for tags; 0 where none are told.
    """
    picture = sizes.picture() + (sizes.tags(prompt) if prompt else 0.0)
    return picture / captions + sizes.caption(tokens) + sizes.pair(tokens)
