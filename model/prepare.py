"""Pictures and captions -> uint8 squares and token ids. Pillow, numpy and tokenizers; no torch.

The squares are bit-identical to those of transformers' `BridgeTowerImageProcessorPil` before it
rescales and normalises; `Preparer.levels` holds what it makes of each grey level afterwards.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model.errors import ModelError
from model.files import section
from model.geometry import Geometry, needed, window

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]


class Preparer:
    """A checkpoint's preprocessing."""

    def __init__(self, geometry: Geometry, tokenizer: str, max_tokens: int) -> None:
        """From the text of a `tokenizer.json` and the model's limit, both ends of the caption included."""
        self.geometry = geometry
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        # Of the file, not of how this version of the library would write it; and without what is set here.
        rules = {k: v for k, v in json.loads(tokenizer).items() if k not in ("padding", "truncation")}
        self._tokenizer_digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Preparer":
        """From a checkpoint folder: `config.json`, `preprocessor_config.json`, `tokenizer.json`.

        Raises:
            ModelError: one of them is missing, or does not fit the others.
        """
        folder = Path(folder)
        geometry, text = Geometry.from_folder(folder), section(folder, "text_config")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json: save the tokenizer again with transformers' "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        # Roberta's positions begin at pad_token_id + 1.
        max_tokens = int(text.get("max_position_embeddings", 514)) - int(text.get("pad_token_id", 1)) - 1
        try:
            preparer = cls(geometry, path.read_text(encoding="utf-8"), max_tokens)
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{path} is no tokenizer: {error}") from error
        known, most = int(text.get("vocab_size", 50265)), max(preparer._tokenizer.get_vocab().values())
        if most >= known:
            raise ModelError(f"{path} has tokens up to {most} but the text tower knows {known}: not of this checkpoint")
        return preparer

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self.geometry.crop

    @cached_property
    def levels(self) -> npt.NDArray[np.float32]:
        """What each channel's 256 levels become, (3, 256): rescaled in float64, normalised in float32."""
        g = self.geometry
        rescaled = (np.arange(256).astype(np.float64) * g.rescale).astype(np.float32)
        mean, std = np.array(g.mean, dtype=np.float32), np.array(g.std, dtype=np.float32)
        return ((rescaled[None, :] - mean[:, None]) / std[:, None]).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """The preprocessing in one line, for the embedding contract."""
        g = self.geometry
        levels = hashlib.sha256(self.levels.tobytes()).hexdigest()[:8]
        return (
            f"resize {g.shortest}, divisor {g.divisor}, resample {g.resample}, crop {g.crop}, "
            f"levels {levels}, tokenizer {self._tokenizer_digest}, {self.max_tokens} tokens"
        )

    def fits(self, height: int, width: int) -> bool:
        """Whether both sides survive the resize (beyond about 15:1 one is floored to 0)."""
        return min(height, width) > 0 and min(self.geometry.resized(height, width)) > 0

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size after the resize, before the cut."""
        return self.geometry.resized(height, width)

    def picture(self, picture: "Image.Image", extent: tuple[float, float] | None = None) -> Pixels:
        """An RGB picture -> (size, size, 3) uint8; call `fits` first.

        `extent` is the height and width of what is looked at, from the first pixel on; all of it unless given.
        """
        from PIL import Image  # here: bench/gpu.py runs where it is not installed

        size = picture.height, picture.width
        (tall, wide), (height, width) = extent or size, self.geometry.resized(*size)
        (to_y, from_y), (to_x, from_x) = window(height, self.size), window(width, self.size)
        left, right = needed(size, width, from_x)
        scale = wide / width
        resized = picture.resize(
            (right - left, height),
            Image.Resampling(self.geometry.resample),
            box=(round(left * scale, 6), 0, round(right * scale, 6), tall),  # whole pixels, of a whole picture
        )
        square = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        square[to_y, to_x] = np.asarray(resized)[from_y, from_x.start - left : from_x.stop - left]
        return square

    def captions(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each caption, and whether it was cut to the model's limit."""
        encoded = [self._tokenizer.encode(text) for text in texts]  # encode_batch would take every CPU there is
        return [(e.ids, bool(e.overflowing)) for e in encoded]

    def token(self, text: str) -> int:
        """The id of one token, such as `<mask>` or `<pad>`."""
        found = self._tokenizer.token_to_id(text)
        if found is None:
            raise ModelError(f"the checkpoint's tokenizer has no token {text!r}")
        return int(found)

    @property
    def tokens(self) -> list[int]:
        """The ids of all tokens."""
        return sorted(self._tokenizer.get_vocab().values())

    def text(self, ids: Sequence[int]) -> str:
        """Token ids -> text."""
        return str(self._tokenizer.decode(list(ids)))
