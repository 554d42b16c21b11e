"""What `bench.ends` reads: shards of drawn scenes or of real-sized photos, and a checkpoint with random weights."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

from safetensors.torch import save_file
from transformers import BridgeTowerConfig

from bench.photo import photo
from bench.waterfall import SIZES
from demo.pack import sample
from tests.checkpoints import weights, write_surroundings
from tests.shards import write_tar

Pair = tuple[bytes, str]  # a JPEG and its caption


def scenes(folder: Path, pairs: int, each: int) -> Path:
    """Shards of `each` of the demo's scenes, those that are drawn as a JPEG, with a caption each."""
    drawn = (sample(0, index, str(index)) for index in count())
    return _pack(folder, ((one.image, one.captions[0]) for one in drawn if one.suffix == "jpg"), pairs, each)


def photos(folder: Path, pairs: int, each: int) -> Path:
    """Shards of `each` JPEGs of 640 by 426 pixels, with a scene's caption each."""
    return _pack(folder, ((photo(640, seed), sample(0, seed, "").captions[0]) for seed in count()), pairs, each)


def _pack(folder: Path, drawn: Iterator[Pair], pairs: int, each: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, pairs, each)):
        some = enumerate(islice(drawn, min(each, pairs - start)), start)
        members = [
            (f"{number:08d}.{kind}", data)
            for number, (jpeg, caption) in some
            for kind, data in (("jpg", jpeg), ("txt", caption.encode()))
        ]
        write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def kept(folder: Path, draw: Callable[..., Path], *what: int | str) -> Path:
    """What was made there before, or is made now."""
    at = folder / "-".join(map(str, (draw.__name__, *what)))
    return at if at.is_dir() else draw(at.with_suffix(".part"), *what).rename(at)


def checkpoint(folder: Path, size: str) -> Path:
    """A published size with an ITC and an ITM head; its tokenizer is the tests', of fewer words."""
    shape = BridgeTowerConfig(**SIZES[size], contrastive_hidden_size=512, logit_scale_init_value=2.6592)
    write_surroundings(folder, shape, size_divisor=16 if size == "tiny" else 32)
    save_file(weights(shape, ("itc", "itm")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
