"""Where checkpoints come from: a folder, the hub at one commit, or any fsspec URL -> a folder on this node."""

import hashlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import NamedTuple, TypeVar

import fsspec
from filelock import FileLock
from httpx2 import HTTPError  # what huggingface_hub lets through when the hub cannot be reached
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from model.errors import ModelError

SURROUNDINGS = ("*.json", "*.txt")  # configuration, tokenizer, image processor
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that is there, as transformers chooses
KINDS = "a checkpoint folder, an fsspec URL, or a hub id such as BridgeTower/bridgetower-large-itm-mlm-itc"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 7.0  # for the hub's first answer; what follows is retried by huggingface_hub
T = TypeVar("T")


class OnHub(NamedTuple):
    """A hub id at one commit; `weights` maps weight files to SHA-256, as far as the hub tells; `size` is of all."""

    commit: str
    weights: Mapping[str, str]
    size: int = 0  # bytes; 0 where the hub does not tell


def is_hub_id(source: str) -> bool:
    """Whether `source` can only be meant as `owner/name`."""
    return not Path(source).exists() and bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", source))


def check_url(source: str) -> None:
    """Refuse what would put a credential into the run record.

    Raises:
        ModelError: a URL with a user, a password or a signed query.
    """
    shown = re.sub(r"\?.*", "?...", re.sub(r"://[^/]*@", "://...@", source))
    if "://" in source and shown != source:
        raise ModelError(
            f"--model {shown} carries a credential, which would be stored with the run: "
            "give the plain URL, and the credential through the provider's environment variables"
        )


def look_up(source: str, revision: str | None) -> OnHub:
    """Ask the hub which commit this is. A full commit that this node has already needs no answer.

    Raises:
        ModelError: not there, not for us, or the hub cannot be reached; within ten seconds.
    """
    at = f"{source} at revision {revision}" if revision else source
    try:
        info = _within(_SECONDS, lambda: HfApi().model_info(source, revision=revision, files_metadata=True))
    except GatedRepoError:
        why = "its owner asks for its terms to be accepted on the hub, and for a token in HF_TOKEN"
    except RevisionNotFoundError:
        why = "the hub has the model but not this revision"
    except (RepositoryNotFoundError, HFValidationError):
        why = f"no such folder here, and no such model on the hub (or it is private: set HF_TOKEN). Give {KINDS}"
    except (HTTPError, OSError) as error:
        if revision and _COMMIT.fullmatch(revision) and _is_cached(source, revision):
            return OnHub(revision, {})
        why = f"no such folder here, and the hub cannot be reached ({first_line(error)}). Give {KINDS}"
    else:
        sums = {s.rfilename: s.lfs.sha256 if s.lfs else "" for s in info.siblings or [] if "/" not in s.rfilename}
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
        weights = choose_weights(sums)
        return OnHub(str(info.sha), {name: sums[name] for name in weights}, sum(sizes[name] for name in weights))
    raise ModelError(f"--model {at}: {why}")


def folder_of(source: str, commit: str, *, weights: bool) -> Path:
    """The checkpoint's folder on this node, fetched if need be, with or without its weights.

    Raises:
        ModelError: it is not there or cannot be fetched.
    """
    if commit:
        return _snapshot(source, commit, weights=weights)
    if "://" in source:
        return _copy(source, weights=weights)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is not a folder"
        raise ModelError(f"--model {source} {what}: give {KINDS}")
    return folder


def choose_weights(names: Iterable[str]) -> list[str]:
    """The files that hold the weights, of the first kind that is there, in order of name."""
    names = sorted(names)
    kinds = ([name for name in names if fnmatch(name, pattern)] for pattern in WEIGHTS)
    return next((kind for kind in kinds if kind), [])


def first_line(error: BaseException) -> str:
    """An error of a library, in one line."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns, or TimeoutError: a library's timeout holds for each address, not for looking up the name."""
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001  # raised again below, in the thread that asked
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(timeout=seconds)


def _is_cached(source: str, commit: str) -> bool:
    try:
        snapshot_download(source, revision=commit, allow_patterns=list(SURROUNDINGS), local_files_only=True)
    except (OSError, EntryNotFoundError):
        return False
    return True


def _snapshot(source: str, commit: str, *, weights: bool) -> Path:
    try:
        folder = Path(snapshot_download(source, revision=commit, allow_patterns=list(SURROUNDINGS)))
        for pattern in WEIGHTS if weights else ():
            snapshot_download(source, revision=commit, allow_patterns=[pattern])
            if any(folder.glob(pattern)):
                break  # a hub checkpoint often has both kinds: one is enough
    except (HTTPError, OSError, EntryNotFoundError) as error:
        raise ModelError(f"--model {source} at commit {commit}: cannot be fetched ({first_line(error)})") from error
    return folder


def _copy(url: str, *, weights: bool) -> Path:
    """Copy a checkpoint from object storage into this node's cache, once whatever the number of actors."""
    from platformdirs import user_cache_path  # here: bench/gpu.py runs where it is not installed

    try:
        fs, path = fsspec.core.url_to_fs(url)
        listed = {Path(entry["name"]).name: entry for entry in fs.ls(path, detail=True)}
    except Exception as error:  # every store has errors of its own; raised again as ours
        raise ModelError(f"--model {url} cannot be listed ({first_line(error)}): give {KINDS}") from error
    wanted = [name for name in sorted(listed) if any(fnmatch(name, pattern) for pattern in SURROUNDINGS)]
    wanted += choose_weights(listed) if weights else []
    if "config.json" not in wanted:
        raise ModelError(f"--model {url} has no config.json: give {KINDS}")
    stamps = [(name, _stamp(listed[name]), listed[name]["size"]) for name in wanted]
    identity = hashlib.sha256(repr((url, stamps)).encode()).hexdigest()
    folder = user_cache_path("bridgelake") / "models" / identity[:24]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            print(f"fetching {url}", file=sys.stderr)
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name in wanted:
                _copy_file(fs, listed[name], part / name, url)
            part.rename(folder)  # all or nothing: a folder that is there is whole
    return folder


def _copy_file(fs: fsspec.AbstractFileSystem, entry: Mapping[str, object], to: Path, url: str) -> None:
    try:
        fs.get_file(entry["name"], str(to))
    except Exception as error:  # every store has errors of its own; raised again as ours
        raise ModelError(f"--model {url}: {to.name} cannot be fetched ({first_line(error)})") from error
    if to.stat().st_size != entry["size"]:
        raise ModelError(f"--model {url}: {to.name} came cut, {to.stat().st_size} of {entry['size']} bytes: try again")


def _stamp(entry: Mapping[str, object]) -> str:
    """What changes when the file does; each store names it differently."""
    return next((str(entry[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in entry), "")
