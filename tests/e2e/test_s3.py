"""Shards in and table out on S3, with nothing but AWS's standard environment variables.

moto serves; with BRIDGELAKE_S3_ENDPOINT, the server there does, with the keys and the region in AWS's own variables.
"""

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import lance
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from tests.conftest import REPOSITORY
from tests.shards import members, tar_bytes

ELSEWHERE = "BRIDGELAKE_S3_ENDPOINT"


@dataclass(frozen=True)
class Store:
    """A bucket of an S3 server, with three shards of ten samples in laion/."""

    access: dict[str, str]  # AWS's variables
    client: Any
    bucket: str

    @property
    def secret(self) -> str:
        return self.access["AWS_SECRET_ACCESS_KEY"]

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        """A job with our variables, and none of those that lead elsewhere."""
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | self.access
        command = [sys.executable, f"jobs/{name}.py", *arguments, "--db", f"s3://{self.bucket}/lake", "--json"]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, job: "subprocess.Popen[str]") -> dict[str, Any]:
        """What a job that must end well printed; its secret must not be among it."""
        try:
            stdout, stderr = job.communicate(timeout=200)
        finally:
            job.kill()
        assert job.returncode == 0, stderr
        assert self.secret not in stdout + stderr
        printed: dict[str, Any] = json.loads(stdout)
        return printed

    def put_if_absent(self, key: str, body: bytes) -> int:
        """The HTTP status of a conditional write."""
        try:
            answer = self.client.put_object(Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            answer = error.response
        return int(answer["ResponseMetadata"]["HTTPStatusCode"])


@pytest.fixture(scope="module")
def access() -> Iterator[dict[str, str]]:
    """The variables that reach the server."""
    if endpoint := os.environ.get(ELSEWHERE):
        kept = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        yield {name: os.environ[name] for name in kept} | {"AWS_ENDPOINT_URL": endpoint}
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "planted-secret-that-must-not-travel",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    server.stop()


@pytest.fixture
def store(access: dict[str, str]) -> Iterator[Store]:
    """A bucket of its own, which is removed again."""
    session = boto3.Session(access["AWS_ACCESS_KEY_ID"], access["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    bucket = session.resource("s3", endpoint_url=access["AWS_ENDPOINT_URL"]).create_bucket(
        Bucket=f"bridgelake-{uuid.uuid4()}"
    )
    for shard in range(3):
        bucket.put_object(Key=f"laion/{shard:05d}.tar", Body=tar_bytes(members(10, start=shard * 10)))
    yield Store(access, bucket.meta.client, bucket.name)
    bucket.objects.delete()
    bucket.delete()


def test_s3_embeds_resumes_and_answers_a_query(store: Store, tmp_path: Path) -> None:
    shards = f"s3://{store.bucket}/laion"
    first = store.finish(store.start("embed_laion", "--input", f"{shards}/*.tar"))
    assert first["rows"] == 30
    second = store.finish(store.start("embed_laion", "--input", f"{shards}/{{00000..00002}}.tar"))
    assert (second["skipped"], second["rows"]) == (3, 0)
    sheet = f"{tmp_path}/sheet.html"
    asked = store.finish(store.start("query", "caption 7", "--limit", "3", "--rerank", "itm", "--html", sheet))
    assert len(asked["hits"]) == 3


@pytest.mark.faults
def test_s3_lands_each_row_once_of_two_jobs_at_once(store: Store) -> None:
    jobs = [store.start("embed_laion", "--input", f"s3://{store.bucket}/laion") for _ in range(2)]
    summaries = [store.finish(job) for job in jobs]
    options = {
        "aws_endpoint": store.access["AWS_ENDPOINT_URL"],
        "allow_http": "true",
        "access_key_id": store.access["AWS_ACCESS_KEY_ID"],
        "secret_access_key": store.secret,
        "region": store.access["AWS_REGION"],
    }
    table = lance.dataset(f"s3://{store.bucket}/lake/laion.lance", storage_options=options)
    rows = table.to_table(columns=["id", "caption"]).to_pylist()
    assert sorted(row["caption"] for row in rows) == sorted(f"caption {i}" for i in range(30)), summaries
    assert len({row["id"] for row in rows}) == 30
    assert sum(summary["rows"] for summary in summaries) == 30, summaries


def test_s3_server_lets_one_of_many_conditional_writes_land(store: Store) -> None:
    assert [store.put_if_absent("one", body) for body in (b"first", b"second")] == [200, 412]
    bodies = [str(i).encode() for i in range(16)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        codes = list(pool.map(lambda body: store.put_if_absent("raced", body), bodies))
    assert Counter(codes)[200] == 1, codes
    landed = store.client.get_object(Bucket=store.bucket, Key="raced")["Body"].read()
    assert landed == bodies[codes.index(200)]
