"""Shards in and table out on S3, with nothing but AWS's standard environment variables."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import REPOSITORY
from tests.shards import members, tar_bytes

SECRET = "planted-secret-that-must-not-travel"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server with shards in s3://data/laion, and the environment that reaches it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    access = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    client = boto3.client(
        "s3",
        endpoint_url=access["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket="data")
    for shard in range(3):
        client.put_object(Bucket="data", Key=f"laion/{shard:05d}.tar", Body=tar_bytes(members(10, start=shard * 10)))
    yield {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | access
    server.stop()


def job(environment: dict[str, str], name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, f"jobs/{name}.py", *arguments, "--db", "s3://data/lake", "--json"]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)


def test_s3_embeds_resumes_and_answers_a_query(s3: dict[str, str], tmp_path: Path) -> None:
    first = job(s3, "embed_laion", "--input", "s3://data/laion/*.tar")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["rows"] == 30
    second = job(s3, "embed_laion", "--input", "s3://data/laion/{00000..00002}.tar")
    assert second.returncode == 0, second.stderr
    assert (json.loads(second.stdout)["skipped"], json.loads(second.stdout)["rows"]) == (3, 0)
    asked = job(s3, "query", "caption 7", "--limit", "3", "--rerank", "itm", "--html", f"{tmp_path}/sheet.html")
    assert asked.returncode == 0, asked.stderr
    assert len(json.loads(asked.stdout)["hits"]) == 3
    assert SECRET not in first.stdout + first.stderr + asked.stdout + asked.stderr
