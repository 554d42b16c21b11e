"""Objects beside the tables, created only if they are not there: in a local folder or in an object store."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from mimetypes import guess_type
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import botocore.session
import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore, from_url

from pipeline.database import storage_options

_LIMITS: Any = {"timeout": "4s", "connect_timeout": "2s"}
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=3)}


class Store(Protocol):
    """Where the tables are. A name that is not there is a FileNotFoundError."""

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; False if there is one of this name."""
        ...

    def read(self, name: str) -> bytes:
        """All of an object."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object."""
        ...

    def names(self, folder: str) -> list[str]:
        """The objects in a folder; none if it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A local folder; what must be atomic is done as Lance does it, by a hard link."""

    path: Path

    def create(self, name: str, data: bytes) -> bool:
        """Create a file; False if there is one of this name."""
        staged = self.path / f"{name}-{uuid.uuid4().hex}"
        staged.parent.mkdir(exist_ok=True)
        with staged.open("xb") as file:
            file.write(data)
        try:
            (self.path / name).hardlink_to(staged)
        except FileExistsError:
            return False
        finally:
            staged.unlink()
        return True

    def read(self, name: str) -> bytes:
        """All of a file."""
        return (self.path / name).read_bytes()

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink()

    def names(self, folder: str) -> list[str]:
        """The files in a folder; none if it is not there."""
        return [str(path.relative_to(self.path)) for path in (self.path / folder).glob("*")]


@dataclass(frozen=True, slots=True)
class Bucket:
    """An object store, by the same library as Lance's."""

    store: ObjectStore

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; False if there is one of this name."""
        kind, _ = guess_type(name)
        told: Any = {"attributes": {"Content-Type": kind}} if kind else {}
        try:
            obstore.put(self.store, name, data, mode="create", **told)
        except AlreadyExistsError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """All of an object."""
        return bytes(obstore.get(self.store, name).bytes())

    def remove(self, name: str) -> None:
        """Remove an object."""
        obstore.delete(self.store, name)

    def names(self, folder: str) -> list[str]:
        """The objects in a folder; none if it is not there."""
        return [str(found["path"]) for some in obstore.list(self.store, f"{folder}/") for found in some]


def store_at(db: str) -> Store:
    """The database's folder, with the credentials and the endpoint that Lance takes."""
    scheme, _, path = db.rpartition("://")
    if scheme in ("", "file"):
        folder = Path(path).absolute()
        while not folder.exists():  # it will be made there, once all is known to be well
            folder = folder.parent
        return Folder(folder)
    if not scheme.startswith("s3"):
        return Bucket(from_url(db, client_options=_LIMITS, retry_config=_RETRIES))
    session, lance = botocore.session.get_session(), storage_options(db)
    config = {key: lance[key] for key in ("aws_endpoint", "region") if key in lance}  # its time limits are not ours
    if "region" not in config:
        region = session.get_config_variable("region")
        config["region"] = region or ("us-east-1" if "aws_endpoint" in config else _region(path.partition("/")[0]))
    found = session.get_credentials()
    s3: Any = {"config": config, "credential_provider": _provider(found) if found else None}
    limits = _LIMITS | {"allow_http": lance.get("allow_http") == "true"}
    return Bucket(from_url(db, client_options=limits, retry_config=_RETRIES, **s3))


def _provider(credentials: Any) -> Callable[[], Mapping[str, object]]:
    """AWS's whole chain, as Lance has it; obstore by itself reads the environment only."""

    def current() -> Mapping[str, object]:
        frozen = credentials.get_frozen_credentials()
        keys = {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token}
        return keys | {"expires_at": None}

    return current


def _region(bucket: str) -> str:
    """Where AWS keeps a bucket, as Lance finds it; it tells anybody, whatever else it answers."""
    found: str | None = None
    try:
        with urlopen(Request(f"https://{bucket}.s3.amazonaws.com", method="HEAD"), timeout=2) as answer:
            found = answer.headers.get("x-amz-bucket-region")
    except HTTPError as error:
        found = error.headers.get("x-amz-bucket-region")
    except OSError:
        pass  # not to be reached: the first request to the store itself will say so
    return found or "us-east-1"
