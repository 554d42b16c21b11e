"""The real img2dataset downloads from a server on this machine; its output folder is a valid input as it stands.

It needs an environment of its own (`.ci/img2dataset-env`); BRIDGELAKE_IMG2DATASET names the executable.
"""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Keep, ReadConfig
from pipeline.errors import ShardError
from pipeline.fetch import fetch_images
from pipeline.prepare import prepare_slice
from pipeline.read import read_slice, resolve_keep
from pipeline.shards import cut, list_shards
from tests.conftest import REPOSITORY
from tests.shards import Squares, picture

TOOL = os.environ.get("BRIDGELAKE_IMG2DATASET", "")
pytestmark = pytest.mark.skipif(not TOOL, reason="BRIDGELAKE_IMG2DATASET does not name img2dataset's executable")

GOOD = 20
BAD = {"gone.jpg": None, "broken.jpg": b"<html>not a picture</html>", "cut.jpg": picture(1, (300, 200))[:150]}


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        number = name.removesuffix(".jpg")
        body = picture(int(number), (300, 200)) if number.isdigit() else BAD[name]
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """LAION's kind of metadata, over pictures on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    names = [*(f"{i}.jpg" for i in range(GOOD)), *BAD]
    path = tmp_path_factory.mktemp("urls") / "laion.parquet"
    columns = {
        "URL": [f"http://127.0.0.1:{server.server_port}/{n}" for n in names],
        "TEXT": [f"picture {n}" for n in names],
        "similarity": [i / 32 for i in range(len(names))],
    }
    pq.write_table(pa.table(columns), path)
    yield path
    server.shutdown()


@pytest.fixture(scope="module", params=["webdataset", "parquet"])
def downloaded(request: pytest.FixtureRequest, urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / request.param
    command = [TOOL, "--url_list", str(urls), "--input_format", "parquet", "--url_col", "URL", "--caption_col", "TEXT"]
    command += ["--output_format", request.param, "--output_folder", str(folder), "--number_sample_per_shard", "10"]
    command += ["--save_additional_columns", '["similarity"]', "--processes_count", "1", "--thread_count", "4"]
    command += ["--image_size", "64", "--enable_wandb", "False"]
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    subprocess.run(command, check=True, capture_output=True, timeout=240, env=os.environ | quiet)
    return folder


def test_img2dataset_folder_is_read_as_it_stands(downloaded: Path) -> None:
    listing = list_shards([str(downloaded)], None)
    suffix = ".tar" if downloaded.name == "webdataset" else ".parquet"
    assert [s.path for s in listing.shards] == [f"0000{i}{suffix}" for i in range(3)]
    assert listing.ignored == 0
    config = ReadConfig((str(downloaded),))
    keep = resolve_keep([Keep("similarity")], listing.shards[0], config)
    assert keep == (Keep("similarity", "float64"),)
    config = ReadConfig(config.inputs, keep=keep)
    slices = [part for s in listing.shards for part in cut(s, config.slice_bytes)]
    rows = [r for s in slices for t in prepare_slice(s, "try1", config, Squares()) for r in t.to_pylist()]
    kinds = Counter(r["kind"] for r in rows)
    failed = 0 if downloaded.name == "webdataset" else len(BAD)  # the tars hold successes only
    assert kinds == Counter(sample=GOOD, end=3) + Counter(reject=failed)
    assert sum(r["pairs"] for r in rows if r["kind"] == "end") == GOOD + failed
    good = [r for r in rows if r["kind"] == "sample"]
    assert sorted(r["captions"][0]["caption"] for r in good) == sorted(f"picture {i}.jpg" for i in range(GOOD))
    for row in good:
        number = int(row["url"].rsplit("/", 1)[1].removesuffix(".jpg"))
        told = json.loads(row["metadata"])
        assert row["similarity"] == number / 32
        assert (row["width"], row["height"]) == (told["width"], told["height"]) == (64, 64)
        assert (told["original_width"], told["original_height"]) == (300, 200)
        assert told["sha256"]  # of the download, before it was resized
    assert all(isinstance(a, bytes) for a in fetch_images(good, listing.root))


def test_img2dataset_failures_become_rejects_with_its_own_words(downloaded: Path) -> None:
    if downloaded.name == "webdataset":
        pytest.skip("the tars hold successes only")
    shards = list_shards([str(downloaded)], None).shards
    found = [r for s in shards for part in cut(s, 2**29) for r in read_slice(part, ReadConfig(("x",)))]
    told = {r.caption: (r.reason, r.detail) for r in found if hasattr(r, "reason")}
    assert set(told) == {f"picture {n}" for n in BAD}
    assert {reason for reason, _ in told.values()} == {"not_downloaded"}
    assert "404" in told["picture gone.jpg"][1]


def test_img2dataset_is_named_where_only_urls_are_given(urls: Path) -> None:
    (shard,) = list_shards([str(urls)], None).shards
    with pytest.raises(ShardError, match="img2dataset --url_list"):
        list(read_slice(cut(shard, 2**29)[0], ReadConfig(("x",))))


def test_img2dataset_folder_goes_through_the_job_as_it_stands(downloaded: Path, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/embed_laion.py", "--input", str(downloaded), "--db", str(tmp_path / "lake")]
    done = subprocess.run(
        [*command, "--keep", "similarity"], cwd=REPOSITORY, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    database = lancedb.connect(tmp_path / "lake")
    rows, ledger = (database.open_table(name).to_pandas() for name in ("laion", "laion_shards"))
    failures = len(BAD) if downloaded.name == "parquet" else 0  # its tars hold successes only
    assert len(rows) == rows["id"].nunique() == GOOD
    assert rows["similarity"].notna().all()
    assert (ledger["read"].sum(), ledger["rejected"].sum()) == (GOOD + failures, failures)
