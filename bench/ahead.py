"""What reading ahead from object storage gains: samples a second with and without it, each request 50 ms away.

    python -m bench.ahead

Real-sized JPEGs in tars on an S3 server with the delay before it, both in a process of their own; reading, decoding
and resizing as a reader of a run does them, in one process and one thread, by the wall clock.
"""

import argparse
import logging
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from statistics import median
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

from bench.feed import GEOMETRY, SIDES
from bench.hardware import hardware
from bench.photo import photo
from model.prepare import Preparer
from pipeline import read
from pipeline.config import ReadConfig
from pipeline.prepare import prepare_slice
from pipeline.shards import Slice, list_shards
from tests.checkpoints import POSITIONS, tokenizer
from tests.faults.proxy import Faults, Proxy
from tests.shards import Member, tar_bytes

DELAY = 0.05  # seconds before the first byte of each answer
_SHARD = 100_000_000  # bytes
_DRAWN = 40  # pictures, over and over
_ACCESS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "verysecret", "AWS_DEFAULT_REGION": "us-east-1"}


def serve(to: Connection) -> None:
    """Tell the URLs of a server and of the same server far away, and serve until nobody listens."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    near = f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
    with Proxy(near, Faults(delay=1, delay_seconds=DELAY)) as far:
        to.send((near, far.url))
        to.poll(None)


def samples(drawn: list[bytes]) -> list[Member]:
    """As many as fill a shard, with a caption each."""
    count = _SHARD * len(drawn) // sum(map(len, drawn))
    pairs = [((f"{i:05d}.jpg", drawn[i % _DRAWN]), (f"{i:05d}.txt", f"picture {i}".encode())) for i in range(count)]
    return [member for pair in pairs for member in pair]


def rate(slice_: Slice, count: int, ahead: bool) -> float:
    """Samples a second of one reader."""
    preparer = Preparer(GEOMETRY, tokenizer(), POSITIONS - 2)
    began = time.perf_counter()
    with patch.object(read, "read_ahead", read.read_ahead if ahead else lambda *_: None):
        rows = sum(table.num_rows for table in prepare_slice(slice_, "a", ReadConfig(("x",)), preparer))
    if rows != count + 1:  # the end record
        raise SystemExit(f"{rows - 1} samples came of {count}")
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    here, there = multiprocessing.Pipe()
    os.environ |= _ACCESS
    multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True).start()
    near, far = here.recv()
    bucket = boto3.resource("s3", endpoint_url=near).create_bucket(Bucket="lake")
    os.environ["AWS_ENDPOINT_URL"] = far
    print(f"{hardware()}; {repeats} rounds, {DELAY * 1e3:.0f} ms a request\n")
    print(f"{'':8}{'JPEG':>8}{'without':>10}{'ahead':>10}{'':4}samples/s")
    for side in SIDES:
        items = samples([photo(side, number) for number in range(_DRAWN)])
        bucket.put_object(Key=f"{side}.tar", Body=tar_bytes(items))
        (shard,), count = list_shards([f"s3://lake/{side}.tar"], None).shards, len(items) // 2
        rounds = [[rate(Slice(shard, 0, 1, None), count, on) for on in (False, True)] for _ in range(repeats + 1)]
        off, on = (median(each) for each in zip(*rounds[1:], strict=True))  # the first round warms up
        gain = median(b / a for a, b in rounds[1:])
        print(f"{side:>5} px{shard.size / count / 1000:5.0f} kB{off:10.1f}{on:10.1f}    x {gain:.2f}")


if __name__ == "__main__":
    main()
