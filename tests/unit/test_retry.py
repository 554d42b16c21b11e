"""Which errors are worth another try, and how long it is tried."""

import errno
import pickle
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_exceptions import ContentLengthError

from pipeline.errors import CommitConflictError, ContractError, ShardError, TableError
from pipeline.stores import retry
from pipeline.stores.retry import GaveUpError, Tries, call, may_pass, patiently
from pipeline.stores.storage import explain

LIST = (
    "LanceError(IO): Generic S3 error: Error performing list request: Error performing GET http://h/lake?list-type=2 "
    "in 1ms, after 3 retries, max_retries: 3, retry_timeout: 180s  - "
)
STATUS = LIST + "Server returned non-2xx status code: "


class ClientError(Exception):
    """As botocore keeps the status."""

    def __init__(self, status: int) -> None:
        self.response = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}


class HttpError(Exception):
    """As aiohttp, azure and google keep it."""

    def __init__(self, **kept: object) -> None:
        self.__dict__.update(kept)


class NoCredentialsError(Exception):
    pass


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retry, "FIRST_CONFLICT_WAIT", 0.001)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.01)


def failing(*errors: BaseException) -> Callable[[], str]:
    left: Iterator[BaseException] = iter(errors)

    def once() -> str:
        for error in left:
            raise error
        return "done"

    return once


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("no answer"),
        ConnectionResetError("reset"),
        OSError(errno.EIO, "I/O error"),
        RuntimeError("Session is closed"),
        raised_from(OSError(errno.EBUSY, "Slow Down"), ClientError(503)),
        ClientError(500),
        ClientError(429),
        HttpError(status=502),
        HttpError(status_code=504),
        HttpError(code="503"),
        raised_from(ClientPayloadError("not completed"), ContentLengthError("received 8 of 16 bytes")),
        raised_from(FileNotFoundError("http://h/x.tar"), HttpError(status=503)),
        raised_from(FileNotFoundError("http://h/x.tar"), ConnectionRefusedError("h:80")),
        ValueError(LIST + "HTTP error: error sending request"),
        ValueError(STATUS + "503 Service Unavailable: <Error><Code>SlowDown</Code></Error>"),
        OSError("LanceError(IO): Generic S3 error: Error getting list response body: HTTP error"),
        OSError("LanceError(IO): Connection refused (os error 111)"),
    ],
    ids=repr,
)
def test_error_that_may_pass_is_tried_again(error: Exception) -> None:
    assert may_pass(error)
    assert call(failing(error, error)) == "done"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x.tar"),
        PermissionError("Access Denied"),
        IsADirectoryError("x"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("no such range"),
        TypeError("an argument"),
        NoCredentialsError("Unable to locate credentials"),
        raised_from(OSError(errno.EINVAL, "invalid"), ClientError(400)),
        raised_from(PermissionError("Forbidden"), ClientError(403)),
        ClientError(412),
        ClientError(501),
        HttpError(status=404),
        raised_from(FileNotFoundError("http://h/x.tar"), HttpError(status=410)),
        ShardError("x.tar", "cut short"),
        raised_from(ShardError("x.tar", "changed"), ClientError(503)),
        KeyboardInterrupt(),
        SystemExit(143),
        ValueError(STATUS + "403 Forbidden: <Error><Code>AccessDenied</Code></Error>"),
        OSError(STATUS + "404 Not Found: <Error><Code>NoSuchBucket</Code></Error>"),
        OSError("LanceError(IO): No space left on device (os error 28)"),
        ValueError("LanceError(IO): Failed to get AWS credentials: ProviderError"),
        ValueError("Dataset at path lake/x.lance was not found: Not found: lake/x.lance/_versions"),
    ],
    ids=repr,
)
def test_error_that_cannot_get_better_is_raised_at_once(error: BaseException) -> None:
    assert not may_pass(error)
    tries = []
    with pytest.raises(type(error)) as caught:
        call(lambda: tries.append(1) or failing(error)())
    assert caught.value is error
    assert len(tries) == 1


def test_call_after_the_deadline_raises_the_last_error_and_the_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 0.2)
    last = raised_from(OSError(errno.EBUSY, "Slow Down, key=verysecret"), ClientError(503))

    def never() -> None:
        raise last

    began = time.monotonic()
    with pytest.raises(GaveUpError, match=r"OSError: .*Slow Down.* \(\d+ tries in 0 s\)") as caught:
        call(never)
    assert time.monotonic() - began < 5
    assert caught.value.__cause__ is last
    assert "Slow Down" in explain(caught.value)
    assert "tries in 0 s)" in explain(caught.value)
    assert "verysecret" not in explain(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_call_hands_arguments_on() -> None:
    assert call(divmod, 7, 2) == (3, 1)
    assert call(int, "11", base=2) == 3


def attempts(*errors: BaseException) -> int:
    once, count = failing(*errors), 0
    for attempt in patiently(TableError):
        with attempt:
            count += 1
            once()
    return count


def test_tries_count_what_was_asked_again_also_where_it_was_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries()
    assert tries.call(failing()) == "done"
    assert tries.again == 0
    assert tries.call(failing(TimeoutError(), ConnectionResetError())) == "done"
    assert tries.again == 2
    once = failing(raised_from(TableError("cannot write"), TimeoutError()))
    for attempt in tries.patiently(TableError):
        with attempt:
            once()
    assert tries.again == 3
    with pytest.raises(PermissionError):
        tries.call(failing(PermissionError()))
    assert tries.again == 3
    monkeypatch.setattr(retry, "DEADLINE", 0.05)
    with pytest.raises(GaveUpError) as caught:
        tries.call(failing(*[TimeoutError()] * 1000))
    assert caught.value.effort.startswith(f"{tries.again - 3 + 1} tries")


def test_patiently_tries_again_after_conflicts_and_what_may_pass() -> None:
    conflict = raised_from(CommitConflictError("somebody else committed first"), OSError("Commit conflict"))
    busy = raised_from(TableError("cannot write"), OSError(STATUS + "503 Slow Down"))
    assert attempts(conflict, busy, conflict) == 4


@pytest.mark.parametrize(
    "error",
    [
        raised_from(TableError("cannot write"), OSError(STATUS + "403 Forbidden")),
        ContractError("another model"),
        ShardError("x.tar", "cut short"),
    ],
    ids=repr,
)
def test_patiently_raises_at_once_what_cannot_get_better(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        attempts(error)
    assert caught.value is error


def test_patiently_raises_the_last_error_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 0.05)
    errors = [CommitConflictError(str(i)) for i in range(1000)]
    with pytest.raises(CommitConflictError) as caught:
        attempts(*errors)
    assert errors.index(caught.value) > 0
