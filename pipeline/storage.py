"""Files on any fsspec store: find them, open them, and say in a few words what went wrong, telling no secret."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import BridgelakeError, ConfigError, ShardError

FIRST_BYTES = 4096  # enough to tell a gzipped tar from any other gzip
_BLOCK = 8 * 2**20  # of a read-ahead: a shard is read once, from front to back
_USER_INFO = re.compile(r"://[^/\s@:]+:(?!\d+/)\S*@")  # a secret may hold slashes; a port is digits and a slash
_SECRETS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:(signature|credential|token|secret|password|key)=)[^&\s\"']+")
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


def connect(uri: str) -> tuple[AbstractFileSystem, str]:
    """The store of a URL or local path, and the path in it. Credentials come from the store's own chain."""
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
        store, path = url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{uri} cannot be read: {explain(error)}") from error
    return store, str(path)


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
    store, path = connect(uri)
    return cast(BinaryIO, store.open(path, "rb", block_size=_BLOCK))


def open_shard(uri: str, size: int) -> BinaryIO:
    """Open a shard for reading; raises ShardError if its size is not the one listed (-1: not told)."""
    file = open_file(uri)
    now = file.seek(0, 2)
    file.seek(0)
    if size >= 0 and now != size:
        file.close()
        raise ShardError(uri, f"changed since it was listed: {size} bytes then, {now} now")
    return file
