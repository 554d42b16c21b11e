"""Which heads a checkpoint has, told by the names of its weights: nothing is loaded, and a hub's are not fetched."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from pickletools import genops
from typing import BinaryIO

from huggingface_hub import HfFileSystem

from model.errors import ModelError
from model.source import choose_weights, first_line, folder_of
from model.spec import ModelSpec

_LEGACY = 4  # pickles at the start of a file of torch before 1.6, the last of them the weights' names


def require_mlm(spec: ModelSpec) -> None:
    """Refuse a checkpoint that cannot fill masks, before any node is asked to.

    Raises:
        ModelError: it has no MLM head, or its weights cannot be looked into.
    """
    try:
        if any(name.startswith("mlm_score.") for name in _names(spec)):
            return
    except ModelError:
        raise
    except Exception as error:  # of the hub, a store, a file that is no checkpoint; raised again as ours
        at = f"{spec.source} at commit {spec.revision}" if spec.revision else spec.source
        raise ModelError(f"{at}: the names of its weights cannot be read ({first_line(error)})") from error
    raise ModelError(
        f"{spec.source} cannot fill masks (it has no MLM head): use a checkpoint that has one, such as ...-itm-mlm-itc"
    )


def _names(spec: ModelSpec) -> Iterator[str]:
    """Of the files on this node; or else of the hub's, of which only the beginnings are read."""
    folder = folder_of(spec.source, spec.revision, weights=not spec.revision)
    here = choose_weights(path.name for path in folder.iterdir())
    for name in here:
        with (folder / name).open("rb") as file:
            yield from _names_in(file, name)
    if spec.revision and not here:
        hub, at = HfFileSystem(), f"{spec.source}@{spec.revision}"
        for name in choose_weights(Path(str(path)).name for path in hub.ls(at, detail=False)):
            with hub.open(f"{at}/{name}", block_size=2**20) as file:
                yield from _names_in(file, name)


def _names_in(file: BinaryIO, name: str) -> Iterator[str]:
    """The names of a weight file's tensors; of a pickle every text in it, which is not unpickled."""
    if name.endswith(".safetensors"):
        yield from json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return
    with ExitStack() as stack:
        pickles, count = file, _LEGACY
        if zipfile.is_zipfile(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
            inside = next(one for one in archive.namelist() if one.endswith("/data.pkl"))
            pickles, count = stack.enter_context(archive.open(inside)), 1  # type: ignore[assignment]
        else:
            file.seek(0)
        for _ in range(count):
            yield from (text for _, text, _ in genops(pickles) if isinstance(text, str))
