"""Whether a pair was taken down: exact, whatever the value, and cheap to hand to many workers."""

import pickle

import numpy as np
import pyarrow as pa

from pipeline.barred import Barred, Takedowns, takedowns_of
from pipeline.samples import row_id


def test_hit_tells_columns_apart() -> None:
    taken = takedowns_of({"id": ["a"], "url": ["b", ""], "sha256": ["c"]})
    assert taken.hit("id", ["a", "b", None]).tolist() == [True, False, False]
    assert taken.hit("url", ["a", "b", None, ""]).tolist() == [False, True, False, True]
    assert taken.hit("sha256", []).tolist() == []


def test_hit_agrees_with_a_set_on_many_values() -> None:
    values = [f"http://x/{i}" for i in range(20_000)]
    taken = takedowns_of({"url": values[::3]})
    assert taken.hit("url", values).tolist() == [i % 3 == 0 for i in range(20_000)]


def test_nothing_is_hit_where_nothing_was_taken_down() -> None:
    table = pa.table({"id": ["a", None], "url": ["u", "v"], "sha256": [None, "s"]})
    assert not Takedowns().rows(table).any()
    assert not Barred().captions("s", ("k", None, None), [0, 1]).any()


def test_rows_are_hit_by_any_of_their_columns() -> None:
    table = pa.table({"id": ["a", "b", "c", "d"], "url": [None, "u", "v", None], "sha256": ["s", "t", "s", "x"]})
    assert takedowns_of({"id": ["d"], "url": ["u"], "sha256": ["s"]}).rows(table).tolist() == [True, True, True, True]
    assert takedowns_of({"url": ["u"]}).rows(table).tolist() == [False, True, False, False]


def test_a_sample_is_hit_by_url_or_picture_as_a_whole_and_by_id_caption_by_caption() -> None:
    def captions(**values: list[str]) -> list[bool]:
        barred = Barred("laion", takedowns_of(values))
        return barred.captions("0.tar", ("key", "http://x", "sha"), [0, 2, 3]).tolist()

    assert captions(url=["http://x"]) == captions(sha256=["sha"]) == [True] * 3
    assert captions(id=[row_id("laion", "0.tar", "key", 2)]) == [False, True, False]
    assert captions(id=[row_id("other", "0.tar", "key", 2)]) == [False] * 3


def test_takedowns_are_16_bytes_each_and_travel() -> None:
    taken = takedowns_of({"url": [f"http://x/{i}" for i in range(10_000)]}, version=3)
    travelled = pickle.loads(pickle.dumps(Barred("laion", taken)))
    assert taken.digests.nbytes == 160_000
    assert (travelled.takedowns.version, np.array_equal(travelled.takedowns.digests, taken.digests)) == (3, True)
