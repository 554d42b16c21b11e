"""The database's store, asked before the first write: may we write there, and is what must be atomic atomic?

Two commits of one version are told apart only by the store: it must refuse to create an object that is there already
(S3: `If-None-Match: *`; a local file system: a hard link). A store that does not loses one of the two.
"""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError
from obstore.exceptions import BaseError

from pipeline.errors import PreflightError
from pipeline.stores.exclusive import store_at
from pipeline.stores.storage import redact

_PATIENCE = 3.0  # seconds from the first question to the last
_REQUEST = re.compile(r"Error performing \w+ (\S+) in .*? - ")
_ANSWER = re.compile(r"<Code>(\w+)</Code>(?:.*?<Message>(.*?)</Message>)?", re.DOTALL)


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
        with _naming(self.db, "cannot be written to"):
            return store_at(self.db).create(self.name(of), of.encode())

    def sees(self, of: str) -> bool:
        """Whether the object is there.

        Raises:
            PreflightError: the store cannot be read.
        """
        with _naming(self.db, "cannot be read"):
            try:
                return store_at(self.db).read(self.name(of)) == of.encode()
            except FileNotFoundError:
                return False

    @contextmanager
    def removing(self, *of: str) -> Iterator[None]:
        """After the block, however it ends, these objects are removed."""
        try:
            yield
        except BaseException:
            for each in of:
                with suppress(PreflightError):  # the first error is worth more
                    self.remove(each)
            raise
        for each in of:
            self.remove(each)

    def remove(self, of: str) -> None:
        """Remove an object, if it is there.

        Raises:
            PreflightError: the store does not let us.
        """
        with _naming(self.db, f"does not let its objects be removed, such as {self.name(of)}"):
            try:
                store_at(self.db).remove(self.name(of))
            except FileNotFoundError:
                return


def require_atomic_writes(db: str) -> None:
    """Refuse a store on which a commit could be lost.

    Raises:
        PreflightError: it cannot be written to, or it replaces what it was told to create only.
    """
    began = time.monotonic()
    while True:
        try:
            atomic = _is_atomic(Probe(db))
        except _UnansweredError:
            if time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(0.2)
        else:
            break
    if not atomic:
        raise PreflightError(
            f"{redact(db)}: the store replaced an object that it was told only to create (If-None-Match: *), so of two "
            "commits at once one would be lost: use a store that honours it, such as AWS S3, Google Cloud Storage, "
            "Azure, MinIO or Ceph, or a local file system"
        )


def _is_atomic(probe: Probe) -> bool:
    with probe.removing("driver"):
        probe.create("driver")  # false after a reply that was lost
        return not probe.create("driver")


class _UnansweredError(PreflightError):
    """The store did not answer, or not as stores do; it may the next time."""


@contextmanager
def _naming(db: str, what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError, BotoCoreError) as error:
        kind = _UnansweredError if type(error).__name__ == "GenericError" else PreflightError
        raise kind(f"{redact(db)} {what}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """The store's own words, without the request that they answer."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = redact(str(error)).strip() or type(error).__name__
    if answer := _ANSWER.search(text):
        return ": ".join(filter(None, answer.groups()))
    return _REQUEST.sub(r"\1: ", text.splitlines()[0])[:300]
