"""The README is true: its file tree is the files, each with the first line of its docstring."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDERS = (
    "bridgelake",
    "pipeline",
    *sorted(f"pipeline/{path.parent.name}" for path in (REPOSITORY / "pipeline").glob("*/__init__.py")),
    "model",
    "jobs",
    "demo",
    "bench",
)
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return f"  {path.name:16} {doc.splitlines()[0]}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_file_tree_is_the_files(folder: str) -> None:
    wanted = [line(path) for path in sorted((REPOSITORY / folder).glob("*.py"))]
    found = re.search(rf"^{folder}/.*\n((?:  .*\n)+)", README, re.MULTILINE)
    assert found, f"{folder} is missing"
    assert [one for one in found[1].splitlines() if one.split()[0].endswith(".py")] == wanted


def flags(options: type) -> set[str]:
    """The command line's, of the groups in it too."""
    groups = [one.type for one in fields(options) if is_dataclass(one.type)]
    names = {one.name.replace("_", "-") for one in fields(options)}
    return names.union(*(flags(group) for group in groups if isinstance(group, type)))


def test_readme_commands_name_scripts_and_options_that_exist() -> None:
    from jobs import (
        build_index,
        compact,
        delete,
        duplicates,
        embed_laion,
        evaluate,
        export,
        query,
        replay_rejects,
        schedule,
        status,
        verify,
    )

    jobs = (build_index, compact, delete, duplicates, embed_laion, evaluate, export, query, replay_rejects, verify)
    jobs += (schedule, status)
    known = {f"{job.__name__.rpartition('.')[2]}.py": job.Options for job in jobs}
    text = re.sub(r" -- (?=\S*python )", "\n", README)  # a command in a command: each has its own options
    for script, options in re.findall(r"python jobs/(\w+\.py)((?:[^\n]*\\\n)*[^\n]*)", text):
        names = flags(known[script]) | {"help", "working-dir"}
        assert set(re.findall(r"--([a-z-]+)", options)) <= names, script
