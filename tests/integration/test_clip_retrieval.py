"""clip-retrieval's layout, read by the package that clip-retrieval's own index reads with (embedding-reader).

It lives in img2dataset's environment (`.ci/img2dataset-env`), whose executable BRIDGELAKE_IMG2DATASET names.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.export import export
from pipeline.exports.asked import Export
from tests.lakes import DIMENSION, FakeLake, captioned

TOOL = os.environ.get("BRIDGELAKE_IMG2DATASET", "")
pytestmark = pytest.mark.skipif(not TOOL, reason="BRIDGELAKE_IMG2DATASET does not name img2dataset's executable")

READ = """
import json, sys
from embedding_reader import EmbeddingReader

folder = sys.argv[1]
images = EmbeddingReader(embeddings_folder=folder + "/img_emb", file_format="npy")
texts = EmbeddingReader(
    embeddings_folder=folder + "/text_emb", metadata_folder=folder + "/metadata",
    meta_columns=["image_path", "caption", "url", "id"], file_format="parquet_npy",
)
told = {"count": int(images.count), "dimension": int(images.dimension)}
told |= {"images": [], "texts": [], "ids": [], "captions": []}
for vectors, _ in images(batch_size=100, start=0, end=images.count, show_progress=False):
    told["images"] += vectors.tolist()
for vectors, table in texts(batch_size=100, start=0, end=texts.count, show_progress=False):
    told["texts"] += vectors.tolist()
    told["ids"] += table["id"].tolist()
    told["captions"] += table["caption"].tolist()
print(json.dumps(told))
"""


def test_clip_retrieval_reads_vectors_and_metadata_row_by_row_alike(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(40, captions=3))
    lake.write()
    export(lake.database, Export(output=f"{tmp_path}/out", format="clip-retrieval", shard_size=11), lambda: lake.model)
    python = Path(TOOL).with_name("python")
    done = subprocess.run([python, "-c", READ, f"{tmp_path}/out"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["count"], told["dimension"]) == (120, DIMENSION)
    assert told["ids"] == [row["id"] for row in lake.rows]
    assert told["captions"] == [row["caption"] for row in lake.rows]
    for name, column in (("images", "image_embedding"), ("texts", "text_embedding")):
        wanted = np.stack([np.asarray(row[column], np.float16) for row in lake.rows])
        np.testing.assert_array_equal(np.asarray(told[name], np.float16), wanted)
