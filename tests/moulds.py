"""What takes a while to build, built once: each test that asks for it gets it as it was built."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")


class Moulds:
    """Folders that were built, and what their tests know of them."""

    def __init__(self, place: Callable[[str], Path]) -> None:
        self._place = place
        self._kept: dict[Callable[[Path], Any], tuple[Path, Any]] = {}

    def cast(self, build: Callable[[Path], Made]) -> Made:
        """What `build` makes of a folder; always in the same one, since tables tell where their shards lie.

        Whatever the test before has made of it, its files are there as they were, and as old.
        """
        if build not in self._kept:
            place = self._place(getattr(build, "__name__", "built"))
            (place / "cast").mkdir()
            self._kept[build] = place, build(place / "cast")
            shutil.copytree(place / "cast", place / "kept")
        place, made = self._kept[build]
        shutil.rmtree(place / "cast")
        shutil.copytree(place / "kept", place / "cast")
        return copy.deepcopy(made)
