"""Shards written by the field's own tools are read to the last pair."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.config import Keep, ReadConfig
from pipeline.decode import decode
from pipeline.fetch import fetch_images
from pipeline.prepare import prepare_slice
from pipeline.read import read_slice, resolve_keep
from pipeline.shards import cut, list_shards
from tests.shards import Squares, picture, samples


def read_all(folder: Path, **options: object) -> list:
    config = ReadConfig((str(folder),), **options)
    return [
        r for s in list_shards(config.inputs, None).shards for part in cut(s, 2**29) for r in read_slice(part, config)
    ]


@pytest.mark.parametrize("pattern", ["%05d.tar", "%05d.tar.gz"])
def test_shards_of_webdataset_are_read_to_the_last_pair(tmp_path: Path, pattern: str) -> None:
    with webdataset.ShardWriter(str(tmp_path / pattern), maxcount=4, verbose=0) as sink:
        for i in range(10):
            sink.write(
                {"__key__": f"part/{i:03d}", "jpg": picture(i), "txt": f"caption {i}", "json": {"similarity": i / 10}}
            )
    got = samples(read_all(tmp_path, keep=(Keep("similarity", "float64"),)))
    assert len(list(tmp_path.iterdir())) == 3
    assert [s.key for s in got] == [f"part/{i:03d}" for i in range(10)]
    assert [s.image for s in got] == [picture(i) for i in range(10)]
    assert [s.captions[0].text for s in got] == [f"caption {i}" for i in range(10)]
    assert [s.keep["similarity"] for s in got] == [i / 10 for i in range(10)]


def test_shards_of_webdataset_encoded_by_it_decode_to_the_same_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as sink:
        sink.write({"__key__": "a", "png": values, "json": {"caption": ["one", "two"]}})
    (sample,) = samples(read_all(tmp_path))
    assert [c.text for c in sample.captions] == ["one", "two"]
    assert np.abs(np.asarray(decode(sample.image, 10**6).picture) - values * 255).max() <= 1


def test_parquet_of_hugging_face_datasets_is_read_to_the_last_pair(tmp_path: Path) -> None:
    pictures = [Image.open(io.BytesIO(picture(i, kind="PNG"))) for i in range(12)]
    columns = {
        "image": pictures,
        "text": [[f"a{i}", f"b{i}"] for i in range(12)],
        "punsafe": [i / 12 for i in range(12)],
    }
    features = datasets.Features(
        image=datasets.Image(), text=datasets.List(datasets.Value("string")), punsafe=datasets.Value("float32")
    )
    made = datasets.Dataset.from_dict(columns, features=features)
    made.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"), batch_size=5)
    listing = list_shards([str(tmp_path)], None)
    config = ReadConfig((str(tmp_path),))
    keep = resolve_keep([Keep("punsafe")], listing.shards[0], config)
    assert keep == (Keep("punsafe", "float32"),)
    got = samples(read_all(tmp_path, keep=keep))
    assert [[c.text for c in s.captions] for s in got] == columns["text"]
    assert [c.position for s in got for c in s.captions] == list(range(24))
    for sample, original in zip(got, pictures, strict=True):
        assert np.array_equal(np.asarray(decode(sample.image, 10**6).picture), np.asarray(original))
    rows = [
        r
        for s in cut(listing.shards[0], 2**29)
        for t in prepare_slice(s, "a", config, Squares())
        for r in t.to_pylist()
    ]
    assert fetch_images(rows[:-1], listing.root) == [s.image for s in got]


def test_parquet_of_pandas_is_read_to_the_last_pair(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"jpg": [picture(0), picture(1)], "TEXT": ["a", None], "NSFW": ["UNLIKELY", None]}, index=[5, 7]
    )
    frame.to_parquet(tmp_path / "x.parquet")
    found = read_all(tmp_path)
    assert [s.captions[0].text for s in samples(found)] == ["a"]
    assert json.loads(samples(found)[0].metadata)["NSFW"] == "UNLIKELY"
    assert [r.reason for r in found[1:]] == ["no_caption"]
