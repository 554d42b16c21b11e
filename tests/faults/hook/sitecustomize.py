"""Causes faults inside the processes of a job, which know nothing of it: Python imports this file at its start.

$FAULTS names a folder with `faults.json`, a list of objects like tests.faults.launch.Fault. Each names a function; once
its module is imported, that function is wrapped. Calls are numbered over all processes by files in the
folder, so a fault happens at the n-th call and, unless it is to go on, never again.
"""

import functools
import importlib
import inspect
import json
import os
import signal
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = Path(os.environ["FAULTS"]) if "FAULTS" in os.environ else None


def _faults():
    """Of this process; read at every import, since Ray starts workers before it has work for them."""
    path = FOLDER / "faults.json" if FOLDER else None
    return _read(path, path.stat().st_mtime_ns) if path and path.exists() else []


@functools.cache
def _read(path, written):
    return json.loads(path.read_text())


class Finder:
    """Finds modules as Python does, and wraps what the faults name once they are loaded."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        faults = [f for f in _faults() if f["at"].partition(":")[0] == name]
        spec = PathFinder.find_spec(name, path) if faults else None
        if spec is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            for fault in faults:
                _wrap(module, fault)

        spec.loader.exec_module = exec_module
        return spec


def _wrap(module, fault):
    *owners, name = fault["at"].partition(":")[2].split(".")
    owner = functools.reduce(getattr, owners, module)
    plain = inspect.getattr_static(owner, name)
    function = getattr(plain, "__func__", plain)
    made = _named(fault["with"]) if fault["do"] == "replace" else _faulty(function, fault)
    setattr(owner, name, type(plain)(made) if isinstance(plain, staticmethod | classmethod) else made)


def _faulty(function, fault):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def faulty(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if fault["do"] == "pass":
            bound.arguments.update(fault["arguments"])
            return function(*bound.args, **bound.kwargs)
        due = eval(fault["where"] or "True", {}, dict(bound.arguments)) and _due(fault)
        if due and fault["when"] == "before":
            _act(fault)
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            if due and fault["when"] == "failing" and type(error).__name__ == fault["error"]:
                _act(fault)
            raise
        if due and fault["when"] == "after":
            _act(fault)
        return result

    return faulty


def _due(fault):
    if fault["do"] == "count":
        return True
    number = _count(fault["name"])
    return number >= fault["nth"] if fault["on"] else number == fault["nth"]


def _count(name):
    """Which call of this name this is, over all processes."""
    number = 1
    while True:
        try:
            os.close(os.open(FOLDER / f"{name}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
        else:
            return number


def _act(fault):
    _happened(fault["name"]).touch()
    match fault["do"]:
        case "count":
            (FOLDER / f"{fault['name']}.{time.time_ns()}.{os.getpid()}").touch()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill node":
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet, without which no process of the node lives long
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(fault["seconds"])
        case "wait":
            # Once in vain is enough: what is waited for may itself wait for this call, after a node was lost.
            over, until = FOLDER / f"{fault['name']}.in_vain", time.monotonic() + fault["seconds"]
            while not (_happened(fault["until"]).exists() or over.exists()):
                time.sleep(0.05)
                if time.monotonic() >= until:
                    over.touch()
        case "raise":
            raise _named(fault["error"])(fault["says"])


def _happened(name):
    return FOLDER / f"{name}.happened"


def _named(path):
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


if FOLDER:
    sys.meta_path.insert(0, Finder)
