"""A proxy before an S3 server that answers a share of the calls as a bad day would: seeded, and counted.

    with Proxy("http://127.0.0.1:5000", Faults(error=0.3, truncate=0.1), seed=1) as proxy:
        ...                          # AWS_ENDPOINT_URL=proxy.url
        proxy.faults = Faults(lost=1, only="PUT .*/_versions/", times=1)
        proxy.go_down(20)
    proxy.did                        # Counter(calls=120, error=31, ...)

What the client signed passes untouched, the Host header included, so a server that checks signatures accepts them.
"""

import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset
_BLOCK = 2**16
_ERROR = (
    "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>injected by the proxy</Message></Error>"
)
_ANSWERS = {
    403: ("Forbidden", "AccessDenied"),
    500: ("Internal Server Error", "InternalError"),
    503: ("Slow Down", "SlowDown"),
}
_OURS = (b"expect:", b"connection:", b"keep-alive:", b"proxy-connection:")  # hop by hop, never signed


@dataclass(frozen=True)
class Faults:
    """Shares of the calls, 0 to 1, that go wrong in each way; together at most 1. Only a GET can be truncated.

    `only` is a regular expression searched in "METHOD /path?query"; `times` is how many faults there are in all.
    """

    error: float = 0.0  # 500 or 503, not passed on
    deny: float = 0.0  # 403, not passed on
    truncate: float = 0.0  # the connection is closed in the middle of the reply's body
    lost: float = 0.0  # passed on, and the connection is cut instead of the reply
    hang: float = 0.0  # accepted, and nothing for `hang_seconds`; then cut
    delay: float = 0.0  # passed on after `delay_seconds`
    only: str = ""
    times: int | None = None
    hang_seconds: float = 30.0
    delay_seconds: float = 0.3

    def draw(self, call: str, number: float) -> str:
        """The fault that a number from [0, 1) stands for; "" for none."""
        if not re.search(self.only, call):
            return ""
        for name in ("error", "deny", "truncate", "lost", "hang", "delay"):
            number -= getattr(self, name)
            if number < 0:
                return name if name != "truncate" or call.startswith("GET ") else ""
        return ""


class Proxy:
    """Listens on loopback between `start` and `stop`, one connection a call."""

    def __init__(self, target: str, faults: Faults | None = None, seed: int = 0) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._faults = faults or Faults()
        self._left = self._faults.times
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._down_until = 0.0
        self._socket: socket.socket | None = None
        self.calls: list[tuple[str, str]] = []  # "METHOD /path?query", and what was done to it
        self.url = ""

    @property
    def did(self) -> Counter[str]:
        """How many calls there were, and how many ended in each fault; `down` are connections cut while down."""
        with self._lock:
            return Counter(fault for _, fault in self.calls if fault) + Counter(calls=len(self.calls))

    @property
    def faults(self) -> Faults:
        """What goes wrong from now on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults, self._left = faults, faults.times

    def go_down(self, seconds: float) -> None:
        """Reset every connection for a while, those under way too."""
        self._down_until = time.monotonic() + seconds

    def start(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # stopped
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                if self._is_down:
                    self._count("", "down")
                    raise ConnectionResetError
                self._handle(client)
            except OSError:  # the client's, the server's, or one that we made up: the client sees a cut connection
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _count(self, call: str, fault: str) -> None:
        with self._lock:
            self.calls.append((call, fault))

    def _handle(self, client: socket.socket) -> None:
        head, rest = _read_head(client)
        if not head:
            return  # a connection that was opened and not used
        call = head.split(b"\r\n", 1)[0].decode("latin-1").rsplit(" ", 1)[0]
        fault = self._draw(call)
        self._count(call, fault)
        if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _read_body(client, head, rest)
        if fault in ("error", "deny"):
            self._refuse(client, call, self._random.choice([500, 503]) if fault == "error" else 403)
            return
        if fault == "hang":
            self._wait(self._faults.hang_seconds)
            raise ConnectionResetError
        if fault == "delay":
            self._wait(self._faults.delay_seconds)
        with socket.create_connection(self._target, timeout=60) as server:
            server.sendall(_with_one_call(head) + body)
            self._answer(client, server, fault)

    def _draw(self, call: str) -> str:
        with self._lock:
            fault = self._faults.draw(call, self._random.random())
            if fault and self._left is not None:
                if self._left == 0:
                    return ""
                self._left -= 1
            return fault

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._socket is not None and not self._is_down:
            time.sleep(0.02)

    def _refuse(self, client: socket.socket, call: str, status: int) -> None:
        reason, code = _ANSWERS[status]
        body = b"" if call.startswith("HEAD ") else _ERROR.format(code=code).encode()
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)

    def _answer(self, client: socket.socket, server: socket.socket, fault: str) -> None:
        head, block = _read_head(server)
        if fault == "lost":
            while server.recv(_BLOCK):
                pass  # the server has done all that it was asked
        if fault == "lost" or not head:
            raise ConnectionResetError
        client.sendall(_with_one_call(head))
        length = _length(head)
        left = length // 2 if length and fault == "truncate" else length
        while left is None or left > 0:
            if self._is_down or (fault == "truncate" and length is None):
                raise ConnectionResetError
            client.sendall(block[:left])
            left = None if left is None else left - len(block)
            block = server.recv(_BLOCK)
            if not block:
                return


def _read_head(source: socket.socket) -> tuple[bytes, bytes]:
    """A request's or reply's first line and headers with the empty line, and what came after them."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = source.recv(_BLOCK)
        if not block:
            return b"", b""
        data += block
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def _length(head: bytes) -> int | None:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else None


def _read_body(client: socket.socket, head: bytes, data: bytes) -> bytes:
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        while not data.endswith(b"0\r\n\r\n"):
            data += _some(client)
        return data
    parts = [data]
    missing = (_length(head) or 0) - len(data)
    while missing > 0:
        parts.append(_some(client))
        missing -= len(parts[-1])
    return b"".join(parts)


def _some(client: socket.socket) -> bytes:
    block = client.recv(_BLOCK)
    if not block:
        raise ConnectionResetError
    return block


def _with_one_call(head: bytes) -> bytes:
    """The same head for a connection that is closed after one call; replies end by their length or with it."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(_OURS)]
    return b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""])
