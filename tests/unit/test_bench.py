"""Benchmarks are not run by tests, and some want an extra: at least what they import of ours is there."""

import ast
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("bench", "bridgelake", "demo", "jobs", "model", "pipeline", "tests")


@cache
def names(path: Path) -> frozenset[str]:
    """All that a module defines or imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return frozenset(defined | assigned | {alias.asname or alias.name for alias in aliases})


def is_there(module: str, name: str) -> bool:
    at = REPOSITORY.joinpath(*module.split("."))
    own = at / "__init__.py" if at.is_dir() else at.with_suffix(".py")
    return (own.is_file() and name in names(own)) or (at / f"{name}.py").is_file() or (at / name).is_dir()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_ours_is_there(path: Path) -> None:
    froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module, alias.name) for node in froms if node.module for alias in node.names]
    wrong = [one for one in ours if one[0].split(".")[0] in OURS and not is_there(*one)]
    assert wrong == []


def test_an_import_of_what_is_gone_is_seen() -> None:
    assert is_there("pipeline.indexes.build", "build")
    assert is_there("pipeline", "database")
    assert not is_there("pipeline.indexes.build", "latest")
    assert not is_there("pipeline.gone", "build")
