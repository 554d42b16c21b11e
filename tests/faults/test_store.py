"""An S3 store that has a bad day while a job reads from it and writes to it; a proxy before moto sees to that.

With BRIDGELAKE_S3_ENDPOINT it stands before the server there, with the keys and the region in AWS's own variables.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.faults.head import Head, running_head
from tests.faults.launch import waves
from tests.faults.proof import prove
from tests.faults.proxy import Faults, Proxy

pytestmark = pytest.mark.faults

ELSEWHERE = "BRIDGELAKE_S3_ENDPOINT"
DAYS = {
    "500_and_503_for_a_third": Faults(error=0.3),
    "bodies_and_replies_cut": Faults(truncate=0.15, lost=0.05, delay=0.1, delay_seconds=0.2),
    "hangs": Faults(hang=0.02, hang_seconds=60, times=2),
    "lost_replies_to_commits": Faults(lost=0.5, only="PUT .*/_versions/"),
}


@dataclass(frozen=True)
class Store:
    """A bucket with the shards in it, reached through a proxy by all processes of a Ray of its own."""

    head: Head
    proxy: Proxy
    bucket: Any

    @property
    def faulty(self) -> int:
        """Calls that went wrong so far."""
        did = self.proxy.did
        return did.total() - did["calls"]

    def local(self, lake: str, folder: Path) -> Path:
        """A copy of what the store itself holds."""
        for found in self.bucket.objects.filter(Prefix=f"{lake}/"):
            path = folder / found.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.get()["Body"].read())
        return folder / lake


@pytest.fixture(scope="module")
def store(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a failure shows some thousand calls
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    server = os.environ.get(ELSEWHERE) or f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "verysecret", "AWS_REGION": "us-east-1"}
    access = {k: os.environ[k] for k in keys} if ELSEWHERE in os.environ else keys
    names = zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), access.values(), strict=True)
    bucket = boto3.resource("s3", endpoint_url=server, **dict(names)).Bucket(f"faults-{uuid.uuid4().hex[:8]}")
    bucket.create()
    for path in shards.iterdir():
        bucket.put_object(Key=f"shards/{path.name}", Body=path.read_bytes())
    with (
        Proxy(server, seed=1) as proxy,
        running_head(tmp_path_factory.mktemp("store"), AWS_ENDPOINT_URL=proxy.url, **access) as head,
    ):
        yield Store(head, proxy, bucket)
    bucket.objects.delete()
    bucket.delete()
    moto.stop()


@pytest.mark.parametrize("day", DAYS)
def test_a_bad_day_of_the_store_loses_nothing(store: Store, reference: Path, tmp_path: Path, day: str) -> None:
    store.head.place(*waves())
    lake, before = f"lake-{uuid.uuid4().hex[:8]}", store.faulty
    store.proxy.faults = DAYS[day]
    try:
        done = store.head.start(f"s3://{store.bucket.name}/shards", f"s3://{store.bucket.name}/{lake}").done()
    finally:
        store.proxy.faults = Faults()
    assert done.code == 0, done.said
    assert store.faulty > before
    if DAYS[day].error:
        assert done.summary["asked_again"] > 0, done.said
    prove(store.local(lake, tmp_path), reference)


def test_a_store_that_is_down_for_a_while_in_mid_job_loses_nothing(
    store: Store, reference: Path, tmp_path: Path
) -> None:
    pace = waves()
    store.head.place(*pace)
    job = store.head.start(f"s3://{store.bucket.name}/shards", f"s3://{store.bucket.name}/lake-down")
    while not store.head.happened(pace[0]) and job.process.poll() is None:
        time.sleep(0.1)
    store.proxy.go_down(20)
    done = job.done()
    assert done.code == 0, done.said
    assert store.proxy.did["down"] > 0
    prove(store.local("lake-down", tmp_path), reference)
