"""Which region a bucket and a machine are in, asked of servers of the test's own."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.forecasts.regions import region_here, region_of_bucket


class Metadata(BaseHTTPRequestHandler):
    """EC2's instance metadata, as far as it tells the zone."""

    zone = "eu-west-1b"

    def do_PUT(self) -> None:
        self._answer(b"token")

    def do_GET(self) -> None:
        self._answer(self.zone.encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("instance")
def test_region_of_a_machine_is_that_of_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_here() == "eu-west-1"
    monkeypatch.setattr(Metadata, "zone", "<html>a proxy's page</html>")
    assert region_here() is None


def test_region_of_a_machine_that_is_no_instance_is_not_known_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    began = time.monotonic()
    assert region_here() is None
    assert time.monotonic() - began < 5


def test_bucket_that_does_not_answer_has_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert region_of_bucket("s3://bucket/x") is None
