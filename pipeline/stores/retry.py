"""Calls to a store, tried again until they succeed, cannot get better, or a deadline has passed.

Whatever a store raises is worth another try, except what tells that the answer will stay the same: not there, not
allowed, not valid. Between two tries there is a random wait that grows, so that many workers do not come back at once.
A try that hangs is not ended here: the stores' own time limits do that (`pipeline.stores.storage`, `database`).
"""

import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from pipeline.errors import BridgelakeError, CommitConflictError

DEADLINE = 120.0  # seconds from the first try to the start of the last one
FIRST_WAIT = 0.5  # seconds at most; doubled after every try
LONGEST_WAIT = 10.0
FIRST_CONFLICT_WAIT = 0.05  # a conflict is over as soon as it is noticed

P = ParamSpec("P")
T = TypeVar("T")

_PASSING = {408, 409, 425, 429}  # HTTP: timeout, somebody else at it, too early, too many requests
_NEVER = {501, 505}  # HTTP: what the server cannot do at all
_FINAL_TYPES = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
)
_FINAL_NAMES = {  # of libraries that may not be there
    "DefaultCredentialsError",
    "FileExpired",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
}
_FINAL_NUMBERS = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_LANCE = "LanceError(IO)"  # raised as OSError, ValueError or ArrowInvalid, whatever it was: the text tells
_LANCE_STATUS = re.compile(r"LanceError\(IO\).* status code: (\d{3})")
_LANCE_NUMBER = re.compile(r"\(os error (\d+)\)")
_LANCE_INVALID = re.compile("^Append with different schema")  # an OSError too
_LANCE_FINAL = re.compile(r"Failed to get \w+ credentials|incorrectly configured region")


class GaveUpError(RuntimeError):
    """The deadline has passed; the last error is the text, and `__cause__`."""

    def __init__(self, tries: int, seconds: float, last: str) -> None:
        super().__init__(tries, seconds, last)  # all, so that it survives pickling between processes
        self.effort = f"{tries} {'try' if tries == 1 else 'tries'} in {seconds:.0f} s"
        self._last = last

    def __str__(self) -> str:
        return f"{self._last} ({self.effort})"


@dataclass(slots=True)
class Tries:
    """Tries of somebody who wants to know how often he had to ask again."""

    again: int = 0

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As the function `call`."""
        started = time.monotonic()
        try:
            return self._retrying(may_pass, FIRST_WAIT)(function, *args, **kwargs)
        except RetryError as error:
            last = error.last_attempt.exception()
            tries = error.last_attempt.attempt_number
            raise GaveUpError(tries, time.monotonic() - started, f"{type(last).__name__}: {last}") from last

    def patiently(self, *kinds: type[BridgelakeError]) -> Retrying:
        """As the function `patiently`."""

        def worth_it(error: BaseException) -> bool:
            passing = isinstance(error, CommitConflictError) or error.__cause__ is None or may_pass(error.__cause__)
            return isinstance(error, kinds) and passing

        return self._retrying(worth_it, FIRST_CONFLICT_WAIT, reraise=True)

    def _retrying(
        self, worth_it: Callable[[BaseException], bool], first_wait: float, reraise: bool = False
    ) -> Retrying:
        return Retrying(
            retry=retry_if_exception(worth_it),
            wait=wait_random_exponential(multiplier=first_wait, max=LONGEST_WAIT),
            stop=stop_before_delay(DEADLINE),
            before_sleep=self._count,
            reraise=reraise,
        )

    def _count(self, state: RetryCallState) -> None:
        self.again += 1


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may be called again after an error, until it returns.

    Raises:
        GaveUpError: the deadline has passed.
        Exception: the function's own, where another try is not worth it.
    """
    return Tries().call(function, *args, **kwargs)


def patiently(*kinds: type[BridgelakeError]) -> Retrying:
    """Tries at a commit, for a loop that looks at what landed between two of them.

    As tenacity has it: `for attempt in patiently(TableError):`, and in the loop `with attempt:`. A conflict is always
    worth another try; another error of these kinds is if what it was raised from may pass. The last one is raised as
    it is.
    """
    return Tries().patiently(*kinds)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    if not isinstance(error, Exception):
        return False  # somebody wants to stop
    if isinstance(error, BridgelakeError):
        return False
    chain = [_told(c) for c in causes(error)]
    for status in filter(None, map(status_of, chain)):
        return status in _PASSING or (status >= 500 and status not in _NEVER)
    if any(c.__name__ in _FINAL_NAMES for cause in chain for c in type(cause).__mro__):
        return False
    # Over HTTP, fsspec raises FileNotFoundError from whatever was wrong.
    judged = next(c for c in chain if not isinstance(c, FileNotFoundError) or c.__cause__ is None)
    return not isinstance(judged, _FINAL_TYPES) and getattr(judged, "errno", None) not in _FINAL_NUMBERS


def _told(error: BaseException) -> BaseException:
    """The error; one of Lance's as the type that its text tells."""
    text = str(error)
    if _LANCE_INVALID.search(text):
        return ValueError(text)
    if _LANCE not in text:
        return error
    if _LANCE_FINAL.search(text):
        return PermissionError(text)
    number = _LANCE_NUMBER.search(text)
    return OSError(int(number[1]), text) if number else OSError(text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was explicitly raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status with which a store answered: each library keeps it elsewhere."""
    if found := _LANCE_STATUS.search(str(error)):
        return _status(found[1])
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    if any(c.__name__ == "HttpProcessingError" for c in type(error).__mro__):
        return None  # aiohttp's word for a reply that was cut; its code is none that a server sent
    kept = (_status(getattr(error, name, None)) for name in ("status", "status_code", "code"))
    return next(filter(None, kept), None)


def _status(value: object) -> int | None:
    number = int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdigit()) else 0
    return number if 300 <= number < 600 else None
