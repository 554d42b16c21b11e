"""Pictures on their way to actors are bounded by bytes: slow actors make readers wait, and nothing spills."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster

from pipeline.config import EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Model, Pixels
from pipeline.run import Run
from tests.beside import over_and_over
from tests.conftest import REPOSITORY
from tests.fakes import CONTRACT, FakeEmbedder, FakeEmbeddings, FakePreparer, Quiet
from tests.shards import members, write_tar

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
STORE = 200 * 2**20
SIDE = 160
SHARDS, PAIRS = 12, 500  # 440 MiB of squares


class Large(FakePreparer):
    """Squares of 77 KB, which are nearly no work."""

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> Pixels:
        return np.full((SIDE, SIDE, 3), np.asarray(picture)[0, 0, 0], dtype=np.uint8)


class Slow(FakeEmbedder):
    """Much slower than the readers."""

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        time.sleep(len(pixels) * 0.004)
        return super().embed(pixels, token_ids, image_of)


def test_readers_wait_for_slow_actors_before_the_object_store_is_full(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i in range(SHARDS):
        write_tar(tmp_path / "shards" / f"{i}.tar", members(PAIRS, start=PAIRS * i))
    config = RunConfig(
        ReadConfig((str(tmp_path / "shards"),)),
        WriteConfig(str(tmp_path / "lake"), report=False),
        EmbedConfig(batch_size=16, device="cpu"),
    )
    seen: list[Any] = []  # of the object store
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        settings = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=settings)
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            with ray.init(cluster.address, log_to_driver=False):
                state = get_state_from_address(ray.get_runtime_context().gcs_address)
                with over_and_over(lambda: seen.append(get_memory_info_reply(state).store_stats)):
                    summary = Run(config, Model(CONTRACT, Large, Slow), Quiet()).start()
        finally:
            cluster.shutdown()
    assert summary.rows == SHARDS * PAIRS
    assert seen[-1].spilled_bytes_total == 0
    # The readers get ahead, by what Ray Data grants at most: seen were 74 MiB, and 148 where all of it was granted.
    assert STORE / 8 < max(stats.object_store_bytes_used for stats in seen) < STORE / 2
