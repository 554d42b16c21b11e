"""The README is true: its file tree is the files, each with the first line of its docstring."""

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

import pytest
import tyro

from jobs import embed_laion, schedule
from jobs.options import EmbeddingCommand
from pipeline.ticks.cron import Cron
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


def jobs() -> dict[str, Any]:
    """Script -> what it takes."""
    names = [path.stem for path in (REPOSITORY / "jobs").glob("*.py")]
    rooms = {name: import_module(f"jobs.{name}") for name in names}
    return {f"{name}.py": room.Options for name, room in rooms.items() if isclass(getattr(room, "Options", None))}


def test_readme_commands_name_scripts_and_options_that_exist() -> None:
    known = jobs()
    text = re.sub(r" -- (?=\S*python )", "\n", README)  # a command in a command: each has its own options
    for script, options in re.findall(r"python jobs/(\w+\.py)((?:[^\n]*\\\n)*[^\n]*)", text):
        names = flags(known[script]) | {"help", "working-dir"}
        assert set(re.findall(r"--([a-z-]+)", options)) <= names, script


def test_each_option_of_each_job_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Which tyro takes from the words beside it, and leaves out where they stand elsewhere."""
    known = jobs()
    assert len(known) == 12
    for script, options in known.items():
        with pytest.raises(SystemExit):
            tyro.cli(options, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
        told = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert " --json" in told or " --db" in told, script
        assert not re.findall(r"--[a-z-]+ [A-Z{]\S* \(default|--no-[a-z-]+ \(default", told), script


def calls() -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    """Each call of a plain name in the README's Python whose arguments are literals: name, arguments, keywords.

    A call among its keywords is left out.
    """
    for block in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                literal = {one.arg: one.value for one in node.keywords if not isinstance(one.value, ast.Call)}
                with suppress(ValueError):  # an argument that is none
                    given = [ast.literal_eval(one) for one in node.args]
                    yield node.func.id, given, {n or "": ast.literal_eval(value) for n, value in literal.items()}


def test_readme_ticks_by_cron_and_by_airflow_are_the_same_and_are_understood() -> None:
    """Airflow itself is not asked: its names and keywords are those of its documentation, for 3.x."""
    found = {name: (given, named) for name, given, named in calls()}
    dag, operator = found["DAG"][1], found["BashOperator"][1]
    assert set(dag) == {"schedule", "catchup", "max_active_runs"}
    assert set(operator) == {"task_id", "bash_command", "cwd", "retries"}
    ((cron, folder, command),) = re.findall(r"^((?:\S+ ){4}\S+)  cd (\S+) && (.*)$", README, re.MULTILINE)
    assert (cron, folder, command) == (dag["schedule"], operator["cwd"], operator["bash_command"])
    Cron(cron, "UTC")
    python, script, *options = shlex.split(command)
    assert script == "jobs/schedule.py"
    tick = tyro.cli(schedule.Options, args=options, config=(tyro.conf.OmitArgPrefixes,))
    assert tick.once
    assert tick.command[:2] == (python, "jobs/embed_laion.py")
    embed = tyro.cli(embed_laion.Options, args=tick.command[2:], config=(tyro.conf.OmitArgPrefixes,))
    assert EmbeddingCommand(tick.command).database().uri == embed.db
