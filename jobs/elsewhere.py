"""`--submit`: the same command as a job on a cluster, which is followed to its end."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bridgelake import DEFAULT_MODEL
from jobs.outcome import say
from pipeline.errors import ConfigError
from pipeline.stores.storage import redact
from pipeline.watch.log import JsonLines, is_event

_FLAG = "--submit"
_PLACES = ("--input", "--db", "--model", "--source-root")  # options that name files, folders or URLs


def submitted(
    address: str, places: Mapping[str, str | Sequence[str] | None], as_json: bool, log: JsonLines | None = None
) -> int:
    """Run this process's command, less --submit, on the cluster; returns the job's exit code, or 130 if it was left.

    Args:
        address: of Ray's dashboard.
        places: the values of options that name files, folders or URLs.
        as_json: print the job's object on standard output; its log goes to standard error either way.
        log: for machines; gets what is said here.

    Raises:
        ConfigError: a place that the cluster cannot mean, or that holds a secret.
        ClusterError: as `pipeline.submit`.
    """
    from pipeline.submit import repository, submit  # Ray, which the command line does without

    each = {option: (values,) if isinstance(values, str) else values or () for option, values in places.items()}
    check(((option, value) for option, values in each.items() for value in values), log)
    script = str(Path(sys.argv[0]).resolve().relative_to(repository()))
    job = submit(address, ["python", script, *without_flag(sys.argv[1:])])
    say(f"job {job.name} at {address}", log)
    shown = _Shown()
    try:
        code = job.attend(shown, ask if sys.stdin.isatty() else None)
    except (KeyboardInterrupt, SystemExit) as left:
        say(
            f"job {job.name} goes on; `ray job logs --follow {job.name} --address {address}` shows it, "
            f"`ray job stop {job.name} --address {address}` ends it",
            log,
        )
        if isinstance(left, SystemExit):
            raise
        return 130
    if as_json and shown.result:
        print(shown.result)
    return code


def check(values: Iterable[tuple[str, str]], log: JsonLines | None = None) -> None:
    """Refuse a command that the cluster cannot mean, or that holds a secret; say what a person should know of it.

    Args:
        values: option and value, of each that the command has; a word that is no option's has "" for it.
        log: for machines; gets what is said here.

    Raises:
        ConfigError: naming the first.
    """
    for option, value in values:
        if note := note_on(option, value):
            say(note, log)


def note_on(option: str, value: str) -> str:
    """What a person should know of a place on the cluster; nothing for a URL, a hub id, or the built-in model.

    Raises:
        ConfigError: it means something else on the cluster, or holds a secret.
    """
    if redact(value) != value:
        raise ConfigError(
            f"{option or 'the command:'} {redact(value)} holds a secret, and whoever sees the dashboard sees a job's "
            "command: leave it out; the nodes find credentials in their own environment, profile or role"
        )
    if option not in _PLACES:
        return ""
    path = value.removeprefix("file://").removeprefix("local://")
    if "://" in path or value == DEFAULT_MODEL or (option == "--model" and not Path(path).exists()):
        return ""
    if not Path(path).is_absolute():
        raise ConfigError(
            f"{option} {value!r} is not valid with {_FLAG}: it is a folder of this machine; allowed is a URL, or the "
            "absolute path of a folder that all nodes share"
        )
    return f"{option} {value}: on the cluster this must be a folder that all nodes share"


def without_flag(arguments: Sequence[str]) -> list[str]:
    """A command line less --submit and its value."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != _FLAG and not argument.startswith(f"{_FLAG}="):
            kept.append(argument)
        skip = argument == _FLAG and not skip
    return kept


def ask(question: str) -> str:
    """On standard error; an end of the input is a no."""
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input()
    except EOFError:
        return "n"


class _Shown:
    """Shows a job's log on standard error, and keeps the last line that is a JSON object and no event."""

    def __init__(self) -> None:
        self.result = ""
        self._rest = ""

    def __call__(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith("{") and _is_result(line):
                self.result = line


def _is_result(line: str) -> bool:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return False
    return isinstance(value, dict) and not is_event(value)
