"""Following a job on a cluster: its log once, its exit code, and what Ctrl-C does; the cluster is a fake."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from ray.job_submission import JobStatus
from yarl import URL

from pipeline import submit as room
from pipeline.errors import ClusterError, ConfigError
from pipeline.submit import Job, submit


@dataclass
class FakeCluster:
    """What a job writes, each time that its log is read; an error ends the reading."""

    readings: list[list[str | BaseException]]
    status: JobStatus = JobStatus.SUCCEEDED
    code: int | None = 0
    message: str | None = None
    unknown: bool = False
    stopped: list[str] = field(default_factory=list)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for text in self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]:
            if isinstance(text, KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                yield ""
            elif isinstance(text, BaseException):
                raise text
            else:
                yield text

    def get_job_info(self, name: str) -> SimpleNamespace:
        if self.unknown:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")
        return SimpleNamespace(status=self.status, driver_exit_code=self.code, message=self.message)

    def stop_job(self, name: str) -> bool:
        self.stopped.append(name)
        self.status, self.code = JobStatus.STOPPED, None
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PAUSE", 0.0)


def job(cluster: FakeCluster) -> Job:
    return Job("http://head:8265", "raysubmit_1", cluster)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 143),
    ],
)
def test_follow_returns_the_exit_code_of_the_job(status: JobStatus, code: int | None, expected: int) -> None:
    shown: list[str] = []
    assert job(FakeCluster([["rows 3\n"]], status, code)).follow(shown.append) == expected
    assert shown == ["rows 3\n"]


def test_follow_shows_why_a_job_could_not_start() -> None:
    shown: list[str] = []
    cluster = FakeCluster([[]], JobStatus.FAILED, None, "runtime_env setup failed: no space left")
    assert job(cluster).follow(shown.append) == 1
    assert shown == ["runtime_env setup failed: no space left\n"]


def test_follow_shows_each_line_once_although_the_connection_is_lost() -> None:
    shown: list[str] = []
    lost = RuntimeError("WebSocket connection closed unexpectedly")
    cluster = FakeCluster([["a\n", "b\n", lost], [ConnectionError("refused")], ["a\nb", "\nc\n"]])
    assert job(cluster).follow(shown.append) == 0
    assert "".join(shown) == "a\nb\nc\n"


def test_follow_gives_up_a_cluster_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PATIENCE", 0.05)
    with pytest.raises(ClusterError, match="job raysubmit_1 at http://head:8265 is lost: refused"):
        job(FakeCluster([[ConnectionError("refused")]])).follow(print)


def test_follow_does_not_wait_for_a_job_that_the_cluster_does_not_know() -> None:
    info = aiohttp.RequestInfo(URL("http://head:8265"), "GET", CIMultiDictProxy(CIMultiDict()))
    refused = aiohttp.WSServerHandshakeError(info, (), status=404, message="Invalid response status")
    with pytest.raises(ClusterError, match="does not exist"):
        job(FakeCluster([[refused]], unknown=True)).follow(print)


def test_follow_asks_nothing_of_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client would wait for it for ever."""
    monkeypatch.setattr(room, "_PATIENCE", 0.05)
    cluster = FakeCluster([[ConnectionError("reset")]])
    monkeypatch.setattr(cluster, "get_job_info", lambda name: pytest.fail("asked"))
    with pytest.raises(ClusterError, match="is lost: reset"):
        job(cluster).follow(print)


def answering(*answers: str | type[BaseException]) -> Callable[[str], str]:
    given: Iterator[str | type[BaseException]] = iter(answers)

    def ask(question: str) -> str:
        assert "stop the job raysubmit_1?" in question
        answer = next(given)
        if isinstance(answer, str):
            return answer
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal did nothing")

    return ask


def test_interrupt_and_yes_stops_the_job_and_shows_its_end() -> None:
    cluster = FakeCluster([["a\n", KeyboardInterrupt()], ["a\n", "ended\n"]])
    shown: list[str] = []
    assert job(cluster).attend(shown.append, answering("y")) == 130
    assert cluster.stopped == ["raysubmit_1"]
    assert shown[-1] == "ended\n"


@pytest.mark.parametrize("ask", [answering("n"), answering(KeyboardInterrupt), None])
def test_interrupt_and_no_answer_or_a_second_interrupt_leaves_the_job(ask: Callable[[str], str] | None) -> None:
    cluster = FakeCluster([["a\n", KeyboardInterrupt()]])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        job(cluster).attend(print, ask)
    assert cluster.stopped == []
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_and_anything_else_goes_on_watching() -> None:
    cluster = FakeCluster([["a\n", KeyboardInterrupt()], ["a\n", "b\n"]], code=0)
    shown: list[str] = []
    assert job(cluster).attend(shown.append, answering("")) == 0
    assert "".join(shown) == "a\nb\n"


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", ""])
def test_submit_refuses_what_is_no_dashboard(address: str) -> None:
    with pytest.raises(ConfigError, match="allowed is the URL of Ray's dashboard"):
        submit(address, ["true"])


def test_submit_says_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # which Ray would take before what is named
    with pytest.raises(ClusterError, match=r"cannot reach Ray at http://127.0.0.1:9: .*127.0.0.1:9"):
        submit("http://127.0.0.1:9", ["true"])
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


def test_submit_needs_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(room, "_ROOT", tmp_path)
    monkeypatch.setattr(room, "_client", lambda address: None)
    with pytest.raises(ConfigError, match="run from a clone"):
        submit("http://head:8265", ["true"])
