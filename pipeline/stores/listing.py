"""What lies in a folder of a store, and how its files begin.

All of it or an error: what is not listed counts as vanished.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from pipeline.stores.retry import call, may_pass
from pipeline.stores.storage import FIRST_BYTES

_AT_ONCE = 1000

Infos = dict[str, dict[str, Any]]


def found(store: AbstractFileSystem, folder: str, depth: int | None, is_hidden: Callable[[str], bool]) -> Infos:
    """What lies in a folder, to some depth (None: all files, without folders); path -> what the store tells of it.

    Hidden folders may be left out. Raises whatever the store raises.
    """
    own = getattr(type(store), "_find", AsyncFileSystem._find)
    if depth is None and own is not AsyncFileSystem._find:  # a store that lists a whole tree page by page
        return {path.rstrip("/"): info for path, info in call(store.find, folder, detail=True).items()}
    # Not fsspec's own way through the folders, which passes over one that cannot be listed.
    infos: Infos = {}
    folders = deque([(folder, 1)])
    while folders:
        at, level = folders.popleft()
        for info in _listed(store, at, is_root=at == folder):
            path = info["name"].rstrip("/")
            if path in infos or path == at.rstrip("/"):
                continue
            infos[path] = info
            if info["type"] == "directory" and not is_hidden(path) and (depth is None or level < depth):
                folders.append((path, level + 1))
    return infos


def _listed(store: AbstractFileSystem, folder: str, is_root: bool) -> list[dict[str, Any]]:
    try:
        return list(call(store.ls, folder, detail=True))
    except FileNotFoundError:
        if is_root:
            raise
        return []  # removed meanwhile, or a link to nowhere


def first_bytes(store: AbstractFileSystem, paths: list[str]) -> list[bytes]:
    """The first FIRST_BYTES of each file; empty where one is not to be read. Raises what the store raises."""
    firsts: dict[str, bytes] = {}
    for start in range(0, len(paths), _AT_ONCE):
        call(_add_firsts, store, paths[start : start + _AT_ONCE], firsts)
    return [firsts[path] for path in paths]


def _add_firsts(store: AbstractFileSystem, paths: list[str], firsts: dict[str, bytes]) -> None:
    """One try at those that are missing."""
    missing = [path for path in paths if path not in firsts]
    answers = store.cat_ranges(missing, [0] * len(missing), [FIRST_BYTES] * len(missing), on_error="return")
    for path, answer in zip(missing, answers, strict=True):
        if isinstance(answer, bytes):
            firsts[path] = answer
        elif not may_pass(answer):
            firsts[path] = b""
    for path, answer in zip(missing, answers, strict=True):
        if path not in firsts:
            raise answer
