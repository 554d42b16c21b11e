"""Pictures on their way to actors are bounded by bytes: slow actors make readers wait, and nothing spills."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster

from pipeline.config import EmbedConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Model, Pixels
from pipeline.run import Run
from tests.conftest import REPOSITORY
from tests.fakes import CONTRACT, FakeEmbedder, FakeEmbeddings, FakePreparer, Quiet
from tests.shards import members, write_tar

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
STORE = 200 * 2**20
SIDE = 160
SHARDS, PAIRS = 12, 500


class Large(FakePreparer):
    """Squares of 77 KB, which are nearly no work."""

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> Pixels:
        return np.full((SIDE, SIDE, 3), np.asarray(picture)[0, 0, 0], dtype=np.uint8)


class Slow(FakeEmbedder):
    """Takes four times as long as the readers need."""

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        time.sleep(len(pixels) * 0.004)
        return super().embed(pixels, token_ids, image_of)


class Watched:
    """Looks at the object store all the time: the most that it held."""

    def __init__(self) -> None:
        self.most = self.spilled = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        while not self._over.wait(0.1):
            stats = get_memory_info_reply(state).store_stats
            self.most = max(self.most, stats.object_store_bytes_used)
            self.spilled = stats.spilled_bytes_total


def test_readers_wait_for_slow_actors_before_the_object_store_is_full(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i in range(SHARDS):
        write_tar(tmp_path / "shards" / f"{i}.tar", members(PAIRS, start=PAIRS * i))
    config = RunConfig(
        ReadConfig((str(tmp_path / "shards"),)),
        WriteConfig(str(tmp_path / "lake"), report=False),
        EmbedConfig(batch_size=16, device="cpu"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        settings = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=settings)
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            with ray.init(cluster.address, log_to_driver=False), Watched() as watched:
                summary = Run(config, Model(CONTRACT, Large, Slow), Quiet()).start()
        finally:
            cluster.shutdown()
    assert summary.rows == SHARDS * PAIRS
    assert SHARDS * PAIRS * SIDE**2 * 3 > 2 * STORE
    assert watched.spilled == 0
    assert STORE / 8 < watched.most < STORE
