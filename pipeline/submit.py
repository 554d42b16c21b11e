"""A command as a Ray job on a cluster: this repository goes along, its log and its exit code come back."""

import asyncio
import logging
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from pipeline.errors import ClusterError, ConfigError

Show = Callable[[str], None]  # gets text as the job writes it, not line by line

_ROOT = Path(__file__).resolve().parent.parent
_STARTING = 60.0  # seconds in which a cluster that has just come up may not take jobs yet
_PATIENCE = 300.0  # seconds without the cluster, until a job is given up as lost; it goes on by itself
_PAUSE = 2.0
# A job that is stopped may finish the commit in hand; Ray's own default is three seconds.
_STOPPING = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
_LOST = (OSError, RuntimeError, aiohttp.ClientError)


def repository() -> Path:
    """The root of this repository, which goes along with each job.

    Raises:
        ConfigError: this package was installed without it.
    """
    if not (_ROOT / ".rayignore").is_file():
        raise ConfigError(f"a job takes the repository along, and {_ROOT} is none: run from a clone (pip install -e .)")
    return _ROOT


def submit(address: str, command: Sequence[str], name: str | None = None) -> "Job":
    """Start a command on a cluster as a job. Whoever did so may be ended meanwhile; the job is not.

    Args:
        address: of Ray's dashboard, such as http://head:8265.
        command: as it would be typed in this repository's root on the head, such as ["python", "jobs/compact.py", ...].
        name: of the job, which no other on the cluster has or had. Default: Ray finds one.

    Raises:
        ConfigError: the address is not valid.
        ClusterError: the cluster cannot be reached, or does not take the job.
    """
    client = _client(address)
    environment = {"working_dir": str(repository()), "env_vars": _STOPPING}  # no credentials: the nodes have their own
    try:
        for attempt in Retrying(
            retry=retry_if_exception(lambda e: "No available agent" in str(e)),
            stop=stop_after_delay(_STARTING),
            wait=wait_fixed(_PAUSE),
            reraise=True,
        ):
            with attempt:
                name = client.submit_job(entrypoint=shlex.join(command), runtime_env=environment, submission_id=name)
    except _LOST as error:
        raise ClusterError(f"{address} does not take the job: {_words(error)}") from error
    assert name is not None  # noqa: S101  # Ray has found one
    return Job(address, name, client)


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted job."""

    address: str
    name: str
    client: Any = field(repr=False)

    def follow(self, show: Show) -> int:
        """Show its log, both of its streams, from the beginning until it ends; returns its exit code.

        Ray does not keep the code of a job that was stopped: it counts as ended by SIGTERM, 143.

        Raises:
            ClusterError: the cluster is lost for minutes, or knows no such job.
        """
        return self._follow(_Log(show))

    def attend(self, show: Show, ask: Callable[[str], str] | None) -> int:
        """As `follow`; Ctrl-C asks whether to stop the job, and a second Ctrl-C leaves it alone.

        Args:
            show: gets its log.
            ask: puts a question to the user and returns the answer; None where nobody can answer.

        Returns:
            The job's exit code; 130 if the user stopped it.

        Raises:
            KeyboardInterrupt: the user left; the job goes on.
            ClusterError: as `follow`.
        """
        log = _Log(show)
        with _interrupts_raised():
            while True:
                try:
                    return self._follow(log)
                except KeyboardInterrupt:
                    if ask is None:
                        raise
                answer = ask(f"\nstop the job {self.name}? y, n (it goes on alone), else go on watching: ")
                if answer.strip().lower() in ("n", "no"):
                    raise KeyboardInterrupt
                if answer.strip().lower() in ("y", "yes"):
                    self.stop()
                    self._follow(log)
                    return 130

    def _follow(self, log: "_Log") -> int:
        lost = None
        while True:
            seen = log.seen
            try:
                asyncio.run(log.read(self.client, self.name))
                if (code := self._exit_code(log.show)) is not None:
                    return code
                lost = None
            except _LOST as error:
                if lost is None or log.seen > seen:
                    lost = time.monotonic()
                why = self._unknown(error) or (_words(error) if time.monotonic() - lost > _PATIENCE else "")
                if why:
                    raise ClusterError(f"job {self.name} at {self.address} is lost: {why}") from error
            time.sleep(_PAUSE)

    def _unknown(self, error: BaseException) -> str:
        """What a cluster that answers says of a job that it does not know, as after its head was started anew."""
        if getattr(error, "status", None) == HTTPStatus.NOT_FOUND:  # all that it says to whoever asks for the log
            try:
                self.client.get_job_info(self.name)
            except _LOST as told:
                error = told
        return _words(error) if "does not exist" in str(error) else ""

    def stop(self) -> None:
        """Ask it to end, as SIGTERM does; `follow` then sees it end.

        Raises:
            ClusterError: the cluster cannot be reached, or knows no such job.
        """
        try:
            self.client.stop_job(self.name)
        except _LOST as error:
            raise ClusterError(f"job {self.name} at {self.address} cannot be stopped: {_words(error)}") from error

    def _exit_code(self, show: Show) -> int | None:
        """None while it runs; what Ray has to say of a job that could not even start is shown."""
        job = self.client.get_job_info(self.name)
        if not job.status.is_terminal():
            return None
        if job.status is JobStatus.STOPPED:
            return 128 + signal.SIGTERM
        code = job.driver_exit_code
        if code is None and job.message:
            show(f"{job.message.strip()}\n")
        if code is None:
            return 0 if job.status is JobStatus.SUCCEEDED else 1
        return int(code) if code >= 0 else 128 - int(code)


@dataclass(slots=True)
class _Log:
    """The log of a job as far as it was shown; read again from its beginning after the connection was lost."""

    show: Show
    seen: int = 0

    async def read(self, client: Any, name: str) -> None:
        passed = 0
        async for text in client.tail_job_logs(name):
            new = text[max(0, self.seen - passed) :]
            passed += len(text)
            if new:
                self.seen = passed
                self.show(new)


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Each SIGINT is a KeyboardInterrupt, also the second, which elsewhere ends a process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _client(address: str) -> Any:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{address!r} is not valid: allowed is the URL of Ray's dashboard, such as http://head:8265")
    for name in ("", ".dashboard.modules.dashboard_sdk", ".dashboard.modules.job.sdk"):
        logging.getLogger(f"ray{name}").setLevel(logging.ERROR)  # they tell of each thing that they do
    variable = "RAY_API_SERVER_ADDRESS"
    kept = os.environ.get(variable)
    os.environ[variable] = address  # which Ray takes before any address that it is given
    try:
        return JobSubmissionClient(address)
    except _LOST as error:
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; if it uses tokens, set RAY_AUTH_MODE=token"
        raise ClusterError(f"cannot reach Ray at {address}: {_words(error)}{hint}") from error
    finally:
        if kept is None:
            del os.environ[variable]
        else:
            os.environ[variable] = kept


def _words(error: BaseException) -> str:
    """The last line that says something: of a traceback that came over the wire, its error."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip(' .}"')]
    return lines[-1][:300] if lines else type(error).__name__
