"""Models that note on which node of a simulated cluster they are used, and wait there for what a test expects."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray
from PIL import Image

from pipeline.embed import Model, Pixels
from tests.fakes import CONTRACT, FakeEmbedder, FakeEmbeddings, FakePreparer

_LONGEST = 150.0  # seconds; a cluster on which the actors find no place is an error


@dataclass(frozen=True)
class Notes:
    """A folder that all processes of one machine see."""

    folder: Path

    def write(self, what: str) -> None:
        (self.folder / f"{what} {ray.get_runtime_context().get_node_id()} {time.monotonic_ns()}").touch()

    def nodes(self, what: str) -> list[str]:
        """Where it happened, as often as it did, in that order."""
        notes = [path.name.split() for path in self.folder.glob(f"{what} *")]
        return [node for _, node, _ in sorted(notes, key=lambda note: int(note[2]))]

    def wait(self, count: int, on: str = "", of: str = "actor") -> None:
        """Until so many actors have started, on a certain node if one is named."""
        until = time.monotonic() + _LONGEST
        while sum(on in node for node in self.nodes(of)) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.nodes(of)} have started, not {count} {on}")
            time.sleep(0.2)


class Placed(FakeEmbedder):
    """Works only once there are so many actors."""

    def __init__(
        self, notes: Notes, actors: int, device: str, dtype: str, batch_size: int, gpu_share: float = 1.0
    ) -> None:
        super().__init__()
        self.notes, self.actors = notes, actors
        notes.write("actor")

    def embed(self, pixels: Pixels, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        if self.calls:  # the first is the actor's own, who tries itself out
            self.notes.wait(self.actors)
        return super().embed(pixels, token_ids, image_of)


@dataclass(frozen=True)
class Reader(FakePreparer):
    """Holds its CPU until so many actors have theirs, or so many readers."""

    notes: Notes
    count: int
    of: str = "actor"

    def picture(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> Pixels:
        if picture.size != (64, 64):  # an actor tries itself out with one of these
            self.notes.write("reader")
            self.notes.wait(self.count, of=self.of)
        return super().picture(picture, extent)


def placed_model(notes: Notes, readers_wait_for: int, actors_wait_for: int) -> Model:
    """Both wait for so many actors to have started."""
    notes.folder.mkdir(exist_ok=True)
    return Model(CONTRACT, partial(Reader, notes, readers_wait_for), partial(Placed, notes, actors_wait_for))
