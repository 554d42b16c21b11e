"""The demo shards: as planted, the same again, and their captions true."""

from collections import Counter
from pathlib import Path

import pytest

from demo import pack
from demo.scenes import COLOURS
from pipeline.config import ReadConfig
from pipeline.prepare import prepare_slice
from pipeline.shards import cut
from tests.shards import Squares, shard


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> pack.Packed:
    return pack.pack(tmp_path_factory.mktemp("shards"), pairs=200, seed=3)


def test_pack_counts_what_is_read_and_rejects_what_was_planted(packed: pack.Packed) -> None:
    config, rejected, pairs, truncated = ReadConfig((str(packed.folder),)), Counter[pack.Planted](), 0, 0
    for name in packed.shards:
        (whole,) = cut(shard(packed.folder / name), 2**30)
        for table in prepare_slice(whole, "attempt", config, Squares()):
            for row in table.to_pylist():
                if row["kind"] == "reject":
                    rejected[pack.Planted(name, row["key"], row["reason"])] += 1
                elif row["kind"] == "sample":
                    pairs += len(row["captions"])
                    truncated += sum(len(caption["caption"].split()) > 64 for caption in row["captions"])
                else:
                    assert row["detail"] is None
    planted = {pack.Planted(p.shard, p.key, p.reason): p.pairs for p in packed.planted}
    assert rejected == planted
    assert (pairs, truncated) == (packed.pairs, packed.long_captions)


def test_pack_writes_the_same_bytes_again(packed: pack.Packed, tmp_path: Path) -> None:
    again = pack.pack(tmp_path, pairs=200, seed=3)
    assert again.planted == packed.planted
    for name in packed.shards:
        assert (tmp_path / name).read_bytes() == (packed.folder / name).read_bytes()


def test_pack_captions_are_true_of_their_pictures_scene() -> None:
    several, three = 0, 0
    for index in range(50):
        one = pack.sample(4, index, f"{index:09d}")
        several += len(one.captions) == 3
        assert len(set(one.captions)) == len(one.captions)
        words = set(" ".join(one.captions).lower().replace(".", "").split())
        shown = {placed.thing.colour for placed in one.scene.objects}
        three += len(one.scene.objects) == 3
        assert words & set(COLOURS) <= shown
        assert words & set(COLOURS) == shown or len(one.scene.objects) == 3
    assert (several, three) == (10, 17)
