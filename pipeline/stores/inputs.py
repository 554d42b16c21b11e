"""One `--input`: a file, folder, glob, brace range or URL -> the files that it names, by one listing a folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import braceexpand
from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from pipeline.errors import ConfigError, InputError
from pipeline.stores.listing import first_bytes, found
from pipeline.stores.retry import call
from pipeline.stores.storage import connect, explain, redact, uri_of

_WILD = re.compile(r"[*?\[]")
_TARS = (".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that an input names; `explicit` if by its own name rather than a folder's or a pattern's."""

    path: str
    info: dict[str, Any]
    explicit: bool = False


@dataclass(frozen=True)
class Input:
    """One input whose braces are expanded: `paths` are all literal (a file, a folder, a range) or one pattern."""

    text: str
    store: AbstractFileSystem
    paths: tuple[str, ...]

    @property
    def wild(self) -> bool:
        """Whether this is a pattern with wildcards."""
        return len(self.paths) == 1 and bool(_WILD.search(self.paths[0])) and not self._literal

    @cached_property
    def _literal(self) -> dict[str, Any] | None:
        """What stands at the only path, taken by its letters; None if nothing does."""
        try:
            info = dict(call(self.store.info, self.paths[0]))
            return info | {"type": "directory"} if self.paths[0].endswith("/") else info  # HTTP knows no folders
        except FileNotFoundError:
            return None
        except Exception as error:  # every store has errors of its own; raised again as ours
            raise InputError(f"{redact(self.text)} cannot be listed: {explain(error)}") from error

    @cached_property
    def base(self) -> str:
        """The folder before any wildcard or range; of a file, the folder that holds it."""
        if self.wild:
            return _parent(self.paths[0][: _first_wild(self.paths[0])])
        if len(self.paths) == 1:
            is_folder = self._literal is not None and self._literal["type"] == "directory"
            return self.paths[0] if is_folder else _parent(self.paths[0])
        return _common([_parent(p) for p in self.paths])

    def entries(self) -> list[Entry]:
        """The files that this input names; in folders and patterns without hidden files and sidecars."""
        self.store.invalidate_cache()  # a listing of an earlier run in this process must not be believed
        try:
            if self.wild:
                return self._globbed()
            return self._range() if len(self.paths) > 1 else self._single()
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"no such file or folder: {self.text}") from error
        except Exception as error:  # every store has errors of its own; raised again as ours
            raise InputError(f"{redact(self.text)} cannot be listed: {explain(error)}") from error

    def _single(self) -> list[Entry]:
        info = self._literal
        if info is None:
            raise InputError(f"no such file or folder: {self.text}")
        if info["type"] != "directory":
            return [Entry(self.paths[0], info, explicit=True)]
        return self._folder(self.paths[0])

    def _folder(self, folder: str) -> list[Entry]:
        return _without_sidecars(self._found(folder, None), folder)

    def _found(self, folder: str, depth: int | None) -> dict[str, dict[str, Any]]:
        return found(self.store, folder, depth, partial(_is_hidden, base=folder))

    def _globbed(self) -> list[Entry]:
        pattern = self.paths[0]
        rest = pattern[len(self.base) :].strip("/")
        found = self._found(self.base, None if "**" in rest else rest.count("/") + 1)
        is_match = re.compile(glob_translate(pattern)).match
        files = [e for e in _without_sidecars(found, self.base) if is_match(e.path)]
        for path, info in found.items():
            if info["type"] == "directory" and is_match(path) and not _is_hidden(path, self.base):
                files += self._folder(path)
        return files

    def _range(self) -> list[Entry]:
        listed: dict[str, dict[str, Any]] = {}
        for folder in dict.fromkeys(_parent(p) for p in self.paths):
            listed |= self._found(folder, 1)
        missing = [p for p in self.paths if p not in listed]
        if missing:
            names = ", ".join(p.rsplit("/", 1)[-1] for p in missing[:3])
            raise InputError(
                f"{self.text} names {len(self.paths)} files, {len(missing)} are not there ({names}): "
                "name those that are, or use a wildcard"
            )
        entries = []
        for path in self.paths:
            is_folder = listed[path]["type"] == "directory"
            entries += self._folder(path) if is_folder else [Entry(path, listed[path], explicit=True)]
        return entries

    def first_bytes(self, entries: Sequence[Entry]) -> list[bytes]:
        """The first bytes of each file; empty where one is not to be read."""
        try:
            return first_bytes(self.store, [e.path for e in entries])
        except Exception as error:  # every store has errors of its own; raised again as ours
            raise InputError(f"{redact(self.text)} cannot be listed: {explain(error)}") from error

    def pattern(self) -> str:
        """A regular expression for what this input would name, over whole paths in its store."""
        if self.wild:
            pattern = str(glob_translate(self.paths[0]))
            return pattern.removesuffix(r"\Z").removesuffix(r"\z") + "(?:/.*)?"
        if len(self.paths) == 1 and self.base == self.paths[0]:
            return re.escape(self.base.rstrip("/") + "/") + ".*"
        return "|".join(re.escape(p) for p in self.paths)


def expand(text: str) -> list[Input]:
    """The inputs that one `--input` stands for: patterns each by itself, all literal names together."""
    try:
        texts = list(braceexpand.braceexpand(text)) if "{" in text else [text]
    except ValueError as error:
        raise ConfigError(f"--input {text!r}: a brace is not closed") from error
    places = [connect(t) for t in texts]
    wild = [p for p in places if _WILD.search(p[1])]
    plain = [p[1] for p in places if not _WILD.search(p[1])]
    inputs = [Input(text, store, (path,)) for store, path in wild]
    return [*inputs, Input(text, places[0][0], tuple(plain))] if plain else inputs


def shared_root(inputs: Sequence[Input]) -> str:
    """The URL of the deepest folder that holds all inputs."""
    stores = {type(i.store): i.store for i in inputs}
    if len(stores) > 1:
        raise ConfigError(
            f"the inputs lie in different stores ({', '.join(i.text for i in inputs[:3])}): "
            "run each store by itself, with a --dataset of its own"
        )
    return uri_of(inputs[0].store, _common([i.base for i in inputs]))


def check_inside(prefix: str, root: str, one: Input, path: str) -> str:
    """The path relative to the root; raises ConfigError if it lies outside."""
    if not path.startswith(prefix) or not uri_of(one.store, path).startswith(root.rstrip("/")):
        raise ConfigError(
            f"{uri_of(one.store, path)} lies outside this dataset's root {root}: name another dataset with "
            "--dataset, or, if the data moved, its new place with --source-root"
        )
    return path.removeprefix(prefix)


def _first_wild(path: str) -> int:
    match = _WILD.search(path)
    return match.start() if match else len(path)


def _parent(path: str) -> str:
    head = path.rpartition("/")[0]
    return "/" if not head and path.startswith("/") else head


def _common(folders: Sequence[str]) -> str:
    parts = [f.rstrip("/").split("/") for f in dict.fromkeys(folders)]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/" if shared == [""] and folders[0].startswith("/") else "/".join(shared)


def _is_hidden(path: str, base: str) -> bool:
    below = path.removeprefix(base).strip("/").split("/")
    return any(part.startswith((".", "_")) or part.endswith(".lance") or part == "lost+found" for part in below)


def _without_sidecars(found: dict[str, dict[str, Any]], base: str) -> list[Entry]:
    """The files, without hidden ones and those that img2dataset writes beside its shards."""
    files = {p: i for p, i in found.items() if i["type"] != "directory" and not _is_hidden(p, base)}
    tars = {p[: -len(end)] for p in files for end in _TARS if p.endswith(end)}
    kept = {
        p: i
        for p, i in files.items()
        if not p.endswith("_stats.json") and not (p.endswith(".parquet") and p.removesuffix(".parquet") in tars)
    }
    return [Entry(p, i) for p, i in kept.items()]
