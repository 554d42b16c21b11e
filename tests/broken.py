"""Models that break in a worker as real ones do; what happened is counted by files in a folder, over all processes."""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.embed import DeviceLostError, Footprint, Model, Pixels
from tests.fakes import CONTRACT, FakeEmbedder, FakeEmbeddings, FakePreparer


@dataclass(frozen=True)
class Plan:
    """What breaks: the GPU is lost in the first so many calls, a call or the start takes so long, vectors are NaN.

    `compiled`: in so many seconds, as it says.
    """

    folder: Path
    losses: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    nan: bool = False
    compiled: float | None = None


class Breaking(FakeEmbedder):
    """Does not count the actor's try-out of a single picture."""

    def __init__(self, plan: Plan, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0) -> None:
        super().__init__()
        self.plan = plan
        note(plan.folder, "start")
        time.sleep(plan.start_seconds)

    def footprint(self) -> Footprint:
        return replace(super().footprint(), compiled=self.plan.compiled)

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        made = super().embed(pixels, token_ids, image_of)
        if self.plan.nan:
            made.text[:] = np.nan
        if len(pixels) > 1:
            if noted(self.plan.folder, "loss") < self.plan.losses:
                note(self.plan.folder, "loss")
                raise DeviceLostError("CUDA error: an illegal memory access was encountered")
            note(self.plan.folder, "call")
            time.sleep(self.plan.seconds)
        return made


def note(folder: Path, what: str) -> None:
    (folder / f"{what}-{time.monotonic_ns()}").touch()


def noted(folder: Path, what: str) -> int:
    return len(list(folder.glob(f"{what}-*")))


def breaking_model(plan: Plan) -> Model:
    plan.folder.mkdir(exist_ok=True)
    return Model(CONTRACT, FakePreparer, partial(Breaking, plan))
