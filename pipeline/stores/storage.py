"""Files on any fsspec store: find them, open them, and say in a few words what went wrong, telling no secret."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec.config
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import BridgelakeError, ConfigError, ShardError
from pipeline.stores.ranged import BLOCK, Opened, buffered
from pipeline.stores.retry import GaveUpError, Tries

FIRST_BYTES = 4096  # enough to tell a gzipped tar from any other gzip
CONNECT_TIMEOUT = 5  # seconds
READ_TIMEOUT = 15  # seconds without a byte
TRIES = 4  # of one request, within the S3 client, so that a listing of many pages need not begin again for each
_USER_INFO = re.compile(r"://[^/\s@:]+:(?!\d+/)\S*@")  # a secret may hold slashes; a port is digits and a slash
_SECRETS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:(\bsig|signature|credential|token|secret|password|key)=)"
    r"(?:[^&\s\"'\\]|\\(?!\\*[\"']))+"  # up to a quote and the backslashes before it: it may stand in JSON
)
_CAUSES = {
    "FileNotFoundError": "gone, or never there: no such file",
    "PermissionError": "access denied",
    "NoSuchBucket": "gone, or never there: no such bucket",
    "NoCredentialsError": "no credentials found: the store's standard environment variables, profile or role",
    "EndpointConnectionError": "the store cannot be reached",
    "ClientConnectorError": "the store cannot be reached",
    "TimeoutError": "the store did not answer in time",
}


def redact(text: str) -> str:
    """The text without user names, passwords, keys and signatures."""
    text = _USER_INFO.sub("://***@", text)
    return _SECRETS.sub(lambda m: f"{m[1]}=***" if m[1] else "***", text)


def explain(error: BaseException) -> str:
    """The cause in a few words."""
    if isinstance(error, GaveUpError) and error.__cause__ is not None:
        return f"{explain(error.__cause__)} ({error.effort})"
    names = [c.__name__ for c in type(error).__mro__]
    for name, words in _CAUSES.items():
        if name in names:
            return words
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn whatever a store or a file format raises into a ShardError that names the shard.

    Every store has errors of its own (botocore, aiohttp, google, azure, ...), so there is no list of them;
    nothing is hidden: the type is in the text and the error stays attached.
    """
    try:
        yield
    except BridgelakeError:
        raise
    except Exception as error:
        raise ShardError(redact(uri), explain(error)) from error


def connect(uri: str, tries: int | None = None) -> tuple[AbstractFileSystem, str]:
    """The store of a URL or local path, and the path in it. Credentials come from the store's own chain.

    Args:
        uri: of a file or folder.
        tries: that the S3 client itself makes of a request; TRIES unless told.
    """
    if "://" not in uri:
        local = LocalFileSystem()
        return local, str(local._strip_protocol(uri))
    if redact(uri) != uri:  # a password, or a signature: the path is stored with every row
        raise ConfigError(
            f"{redact(uri)} holds credentials: give the URL without them; they are taken from the store's "
            "environment variables, profile or role"
        )
    if "::" in uri:
        raise ConfigError(f"{uri} is a chain of stores: give the URL of the one store that holds the files")
    try:
        store, path = url_to_fs(uri, **_limits(uri.partition("://")[0], tries or TRIES))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{uri} cannot be read: {explain(error)}") from error
    if uri.startswith("s3"):
        store.retries = 1  # s3fs repeats what the client below has repeated
    return store, str(path)


def _limits(protocol: str, tries: int) -> dict[str, Any]:
    """Options that end a call which hangs, beside those of fsspec's own configuration; other stores have theirs."""
    if protocol in ("s3", "s3a"):
        name: str = "config_kwargs"
        limits: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT}
        limits["retries"] = {"total_max_attempts": tries}
    elif protocol in ("http", "https"):
        from aiohttp import ClientTimeout  # slow to import, and few need it

        name = "client_kwargs"
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT)
        limits = {"timeout": timeout}
    else:
        return {}
    return {name: limits | fsspec.config.conf.get(protocol, {}).get(name, {})}


def uri_of(store: AbstractFileSystem, path: str) -> str:
    """The URL of a path in a store; of a local file simply its absolute path."""
    return path if isinstance(store, LocalFileSystem) else str(store.unstrip_protocol(path))


def join(root: str, path: str) -> str:
    """The URL of a path relative to a root."""
    return f"{root}{path}" if root.endswith("/") else f"{root}/{path}"


def version_of(info: dict[str, Any]) -> str:
    """The ETag of a file, else its modification time, as text; empty where the store tells neither."""
    for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return f"{value.timestamp():.6f}"
        if isinstance(value, int | float):
            return f"{value:.6f}"
        if value:
            return str(value).strip('"')
    return ""


def open_file(uri: str) -> BinaryIO:
    """Open a file for reading, with a read-ahead that keeps memory flat."""
    return _open(uri)[0]


def open_shard(uri: str, size: int, etag: str = "", tries: Tries | None = None) -> BinaryIO:
    """Open a shard for reading.

    Args:
        uri: of the shard.
        size: as it was listed, -1 if it was not told.
        etag: as it was listed, empty if it was not told.
        tries: counts how often the store was asked again; on S3 all tries are then made here, where they are seen.

    Raises:
        ShardError: size or ETag are others now; from a later read: it was changed meanwhile.
    """
    file, now = _open(uri, tries)
    changed = ""
    if size >= 0 and now.size != size:
        changed = f"{size} bytes then, {now.size} now"
    elif etag and now.version and now.version != etag:
        changed = f"version {etag} then, {now.version} now"
    if changed:
        file.close()
        raise ShardError(uri, f"changed since it was listed: {changed}")
    return file


def _open(uri: str, tries: Tries | None = None) -> tuple[BinaryIO, Opened]:
    store, path = connect(uri, None if tries is None else 1)
    if isinstance(store, LocalFileSystem):
        opened = _opened(store, path)
        return opened.file, opened
    return buffered(uri, lambda: _opened(store, path), tries)


def _opened(store: AbstractFileSystem, path: str) -> Opened:
    # On S3 each request names the ETag that was found here, and is refused once the file is another.
    options = {"cache_type": "none"} if isinstance(store, AsyncFileSystem) else {}
    file = store.open(path, "rb", block_size=BLOCK, **options)
    size = file.seek(0, 2)
    file.seek(0)
    info = getattr(file, "details", None) or store.info(path)
    # Requests of such stores hold nothing in common; a file of another may be one connection's, or shared by all.
    return Opened(cast(BinaryIO, file), size, version_of(info), by_threads=isinstance(store, AsyncFileSystem))
