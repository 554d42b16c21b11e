"""A checkpoint's JSON files."""

import json
from pathlib import Path
from typing import Any

from model.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """One of a checkpoint's JSON files.

    Raises:
        ModelError: it is not there or holds something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}: a BridgeTower checkpoint needs it") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} holds no JSON object")
    return loaded


def section(folder: Path, name: str) -> dict[str, Any]:
    """`text_config` or `vision_config` of a checkpoint; what it leaves out has the default of transformers."""
    found = read_json(folder / "config.json").get(name) or {}
    if not isinstance(found, dict):
        raise ModelError(f"{folder}/config.json: {name} holds no JSON object")
    return found
