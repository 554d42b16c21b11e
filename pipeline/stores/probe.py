"""The database's store, asked before the first write: may we write there, and is what must be atomic atomic?

Two commits of one version are told apart only by the store: it must refuse to create an object that is there already
(S3: `If-None-Match: *`; a local file system: a hard link). A store that does not loses one of the two.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from botocore.exceptions import BotoCoreError
from obstore.exceptions import BaseError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, stop_all, wait_fixed

from pipeline.errors import PreflightError
from pipeline.stores.exclusive import store_at
from pipeline.stores.storage import redact

_PATIENCE = 3.0  # seconds for a question that gets no answer, and
_TRIES = 3  # at least: a slow store may take the seconds for one
_REQUEST = re.compile(r"Error performing \w+ (\S+) in .*? - ")
_ANSWER = re.compile(r"<Code>(\w+)</Code>(?:.*?<Message>(.*?)</Message>)?", re.DOTALL)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Probe:
    """Small objects beside the tables, of names that nobody else uses."""

    db: str
    stem: str = field(default_factory=lambda: f".bridgelake-probe-{uuid.uuid4().hex[:12]}")

    def name(self, of: str) -> str:
        """Of the object that `of` writes."""
        return f"{self.stem}-{of}"

    def create(self, of: str) -> bool:
        """Create an object; False if it is there already.

        Raises:
            PreflightError: the store cannot be written to.
        """
        return self._asked("cannot be written to", lambda: store_at(self.db).create(self.name(of), of.encode()))

    def sees(self, of: str) -> bool:
        """Whether the object is there.

        Raises:
            PreflightError: the store cannot be read.
        """

        def seen() -> bool:
            try:
                return store_at(self.db).read(self.name(of)) == of.encode()
            except FileNotFoundError:
                return False

        return self._asked("cannot be read", seen)

    @contextmanager
    def removing(self, *of: str) -> Iterator[None]:
        """After the block, however it ends, these objects are removed."""
        try:
            yield
        except BaseException:
            for each in of:
                with suppress(PreflightError):  # the first error is worth more
                    self.remove(each, tries=1)
            raise
        for each in of:
            self.remove(each)

    def remove(self, of: str, tries: int = _TRIES) -> None:
        """Remove an object, if it is there.

        Raises:
            PreflightError: the store does not let us.
        """

        def remove() -> None:
            with suppress(FileNotFoundError):
                store_at(self.db).remove(self.name(of))

        self._asked(f"does not let its objects be removed, such as {self.name(of)}", remove, tries)

    def _asked(self, what: str, question: Callable[[], T], tries: int = _TRIES) -> T:
        """The store's answer; asked again where none came, as after a removal, which obstore tries only once."""
        stop = stop_all(stop_after_attempt(tries), stop_after_delay(_PATIENCE if tries > 1 else 0))
        retrying = Retrying(retry=retry_if_exception(_is_silent), wait=wait_fixed(0.2), stop=stop, reraise=True)
        try:
            return retrying(question)
        except (BaseError, OSError, ValueError, BotoCoreError) as error:
            raise PreflightError(f"{redact(self.db)} {what}: {_told(error)}") from error


def require_atomic_writes(db: str) -> None:
    """Refuse a store on which a commit could be lost.

    Raises:
        PreflightError: it cannot be written to, or it replaces what it was told to create only.
    """
    if not _is_atomic(Probe(db)):
        raise PreflightError(
            f"{redact(db)}: the store replaced an object that it was told only to create (If-None-Match: *), so of two "
            "commits at once one would be lost: use a store that honours it, such as AWS S3, Google Cloud Storage, "
            "Azure, MinIO or Ceph, or a local file system"
        )


def _is_atomic(probe: Probe) -> bool:
    with probe.removing("driver"):
        probe.create("driver")  # false after a reply that was lost
        return not probe.create("driver")


def _is_silent(error: BaseException) -> bool:
    """Whether the store did not answer, or not as stores do; it may the next time."""
    return type(error).__name__ == "GenericError"


def _told(error: BaseException) -> str:
    """The store's own words, without the request that they answer."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = redact(str(error)).strip() or type(error).__name__
    if answer := _ANSWER.search(text):
        return ": ".join(filter(None, answer.groups()))
    return _REQUEST.sub(r"\1: ", text.splitlines()[0])[:300]
