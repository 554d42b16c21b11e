"""Ticks without Ray and without processes: shards of a folder embedded in place of the embedding command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.ticks.book import Tick
from pipeline.ticks.command import Ended, Running
from pipeline.ticks.steps import Checks, tick
from tests.ingest import Lake


@dataclass
class Ticking:
    """A lake whose ticks embed what each is told to, as a run does it."""

    folder: Path
    lake: Lake = field(init=False)

    def __post_init__(self) -> None:
        self.lake = Lake(self.folder)

    def tick(self, *shards: str, changed: Sequence[str] = (), checks: Checks | None = None, code: int = 0) -> Tick:
        """One tick in which the embedding command embeds these shards, those that changed too."""

        def embed() -> int:
            if shards:
                self.lake.run(*shards)
            if changed:
                self.lake.run(*changed, replaces=True)
            return code

        return tick(self.lake.database, lambda: Embedding(embed), checks or Checks())

    def live(self) -> int:
        """How many rows whoever asks for `live` sees."""
        dataset = self.lake.database.open(version="live")
        assert dataset is not None
        return int(dataset.count_rows())


@dataclass
class Embedding(Running):
    """An embedding command that is a function; it says one line."""

    embed: Callable[[], int]

    def follow(self, say: Callable[[str], None]) -> Ended:
        code = self.embed()
        say("embedded")
        return Ended(code, ("embedded",) if code == 0 else ("failed: bad.tar: it is cut short",))

    def stop(self) -> None:
        raise AssertionError("nobody stops it")
