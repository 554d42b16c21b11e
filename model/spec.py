"""Which checkpoint, fixed once on the node that starts the run and the same for every worker. No torch."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model.errors import ModelError
from model.files import read_json
from model.operations import Sizes, operations_a_pair
from model.prepare import Preparer
from model.source import WEIGHTS, check_url, choose_weights, folder_of, is_hub_id, look_up


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A checkpoint that is the same for every worker.

    `source` is what the user typed, `revision` the hub's commit (empty for folders and URLs),
    `weights` the SHA-256 of the weights, `preprocessing` its fingerprint, `dimension` of the
    embeddings (0 where the configuration knows none).
    """

    source: str
    revision: str
    weights: str
    preprocessing: str
    dimension: int

    def fetch(self) -> Path:
        """The checkpoint's folder on this node: fetched once, its weights' hash checked.

        Raises:
            ModelError: it is not there, or its weights are not those that the run began with.
        """
        folder = folder_of(self.source, self.revision, weights=True)
        found = hash_weights(folder)
        if found != self.weights:
            raise ModelError(
                f"{self.source} at {folder} has weights {found[:12]}, the run began with {self.weights[:12]}: "
                "use the same checkpoint on every node, or give its hub id or URL"
            )
        return folder

    def size(self) -> int | None:
        """Bytes of the weights' files; None where this node has not fetched them and no hub tells."""
        folder = folder_of(self.source, self.revision, weights=False)
        names = choose_weights(path.name for path in folder.iterdir())
        here = sum((folder / name).stat().st_size for name in names)
        return here or (look_up(self.source, self.revision).size if self.revision else 0) or None

    def operations(self, tokens: float, captions: float, prompt: int = 0) -> float:
        """Of a pair, as `operations_a_pair` counts them; the weights are not fetched."""
        config = read_json(folder_of(self.source, self.revision, weights=False) / "config.json")
        return operations_a_pair(Sizes.of(config), tokens, captions, prompt)

    def preparer(self) -> Preparer:
        """The checkpoint's preprocessing, for which the weights are not fetched.

        Raises:
            ModelError: it is not there, or it is not the one that the run began with.
        """
        return self.check(Preparer.from_folder(folder_of(self.source, self.revision, weights=False)))

    def check(self, preparer: Preparer) -> Preparer:
        """The preparer, if it is the one that the run began with."""
        if preparer.fingerprint != self.preprocessing:
            raise ModelError(
                f"{self.source} prepares by ({preparer.fingerprint}), the run began with ({self.preprocessing}): "
                "use the same checkpoint on every node, or give its hub id or URL"
            )
        return preparer


def resolve(source: str, revision: str | None = None) -> ModelSpec:
    """Find a checkpoint and fix it: one commit, one hash.

    A hub checkpoint's weights are not fetched where the hub tells their hash, so that a head node
    that only submits a job needs no room for them.

    Args:
        source: a folder, a hub id such as `BridgeTower/bridgetower-large-itm-mlm-itc`, or an fsspec URL.
        revision: a hub branch, tag or commit.

    Raises:
        ModelError: there is no such checkpoint, or it is not whole.
    """
    check_url(source)
    commit, sums = "", list[str]()
    if is_hub_id(source):
        found = look_up(source, revision)
        commit, sums = found.commit, list(found.weights.values())
    elif revision:
        raise ModelError(f"--revision {revision} goes with a hub id; {source} is a folder or a URL")
    known = bool(sums) and all(sums)
    folder = folder_of(source, commit, weights=not known)
    preparer = Preparer.from_folder(folder)  # first: it is quick, and says whether this is a BridgeTower at all
    return ModelSpec(
        source=source if commit or "://" in source else str(folder.resolve()),
        revision=commit,
        weights=_total(sums) if known else hash_weights(folder),
        preprocessing=preparer.fingerprint,
        dimension=int(read_json(folder / "config.json").get("contrastive_hidden_size") or 0),
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors, else `.bin`.

    Raises:
        ModelError: there are none.
    """
    names = choose_weights(path.name for path in folder.iterdir())
    if not names:
        raise ModelError(f"{folder} holds no weights: wanted {' or '.join(WEIGHTS)} beside its config.json")
    return [folder / name for name in names]


def hash_weights(folder: Path) -> str:
    """SHA-256 over the SHA-256 of each weight file, in the order of their names."""
    sums = []
    for path in weight_files(folder):
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    return _total(sums)


def _total(sums: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in sums)).hexdigest()
