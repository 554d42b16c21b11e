"""A hub on loopback: the few answers of the real one's HTTP interface that fetching a model needs."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Models by id and commit, branches, and every request that came in."""

    url: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    lfs: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)
    parts: list[tuple[str, int]] = field(default_factory=list)  # of files that were asked for in parts: name and bytes

    def push(self, model: str, folder: Path, branch: str = "main") -> str:
        """Publish a folder as it is now; its commit depends on the content."""
        content = b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits.setdefault(model, {})[commit] = folder
        self.branches.setdefault(model, {})[branch] = commit
        return commit

    def fetched(self, suffix: str) -> list[str]:
        """The files with this suffix that were downloaded."""
        return [path for verb, path in self.requests if verb == "GET" and "/resolve/" in path and path.endswith(suffix)]

    def files(self, model: str, commit: str) -> list[dict[str, Any]]:
        """One entry for each file, as `tree` and `siblings` need them."""
        found = []
        for path in sorted(self.commits[model][commit].iterdir()):
            digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
            large = self.lfs and path.suffix in (".safetensors", ".bin")
            lfs = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 134} if large else None
            name = {"path": path.name, "rfilename": path.name, "type": "file"}
            found.append({**name, "size": size, "oid": digest[:40], "blobId": digest[:40], "lfs": lfs})
        return found


class Handler(BaseHTTPRequestHandler):
    """What the hub answers; `hub` is set on the subclass that serves it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body=body)
        else:
            self._file("/".join(parts[:2]), parts[3], parts[-1], body=body)

    def _commit(self, model: str, revision: str) -> str | None:
        if model not in self.hub.commits:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=True)
        elif model in self.hub.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body=True)
        elif (commit := self.hub.branches[model].get(revision, revision)) not in self.hub.commits[model]:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=True)
        else:
            return commit
        return None

    def _api(self, model: str, rest: list[str], *, body: bool) -> None:
        commit = self._commit(model, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return
        files = self.hub.files(model, commit)
        answer = files if rest[:1] == ["tree"] else {"id": model, "sha": commit, "siblings": files}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body=body)

    def _file(self, model: str, revision: str, name: str, *, body: bool) -> None:
        commit = self._commit(model, revision)
        if commit is None:
            return
        content = (self.hub.commits[model][commit] / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        etag = etag if name.endswith((".safetensors", ".bin")) and self.hub.lfs else etag[:40]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            part = slice(int(asked[1]), int(asked[2]) + 1)
            headers["Content-Range"] = f"bytes {part.start}-{min(part.stop, len(content)) - 1}/{len(content)}"
            self.hub.parts.append((name, len(content[part])))
            self._send(206, content[part], headers, body=body)
        else:
            self._send(200, content, headers, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
