"""Compaction, an index and clean-up while jobs embed: they conflict with commits, and nothing is lost."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from pipeline.database import Database
from pipeline.errors import BridgelakeError
from pipeline.upkeep.compact import Limits, compact
from tests.faults.head import Head
from tests.faults.launch import Fault
from tests.faults.proof import prove

pytestmark = pytest.mark.faults


def merge(path: Path) -> None:
    lance.dataset(str(path)).optimize.compact_files(target_rows_per_fragment=1000)


def index(path: Path) -> None:
    dataset = lance.dataset(str(path))
    dataset.create_scalar_index("caption", "INVERTED", replace=True)
    dataset.create_index("image_embedding", "IVF_FLAT", metric="cosine", num_partitions=2, replace=True)
    dataset.optimize.optimize_indices()


def keep_up(path: Path) -> None:
    compact(Database(str(path.parent), path.stem), Limits(older_than=timedelta(seconds=3)))


class Beside:
    """Does something to the table, over and over, while a job writes to it."""

    def __init__(self, path: Path, *acts: Callable[[Path], object]) -> None:
        self.done = self.refused = 0
        self._path, self._acts = path, acts
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for act in self._acts:
                try:
                    act(self._path)
                except (OSError, ValueError, RuntimeError, BridgelakeError):
                    self.refused += 1  # no table yet, no rows yet, or a commit of the job came first
                else:
                    self.done += 1


SLOWLY = Fault("tests.faults.model:SmallEmbedder.embed", "sleep", on=True, seconds=0.3)


@pytest.mark.parametrize("acts", [(merge, index), (keep_up,), (keep_up, index)])
def test_a_table_may_be_looked_after_while_jobs_write(
    head: Head,
    shards: Path,
    reference: Path,
    tmp_path: Path,
    acts: tuple[Callable[[Path], object], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.upkeep.compact.QUIET", timedelta())  # versions a few seconds old may go
    lake = tmp_path / "lake"
    head.place(SLOWLY)
    with Beside(lake / "laion.lance", *acts) as beside:
        done = head.embed(shards, lake)
    assert done.code == 0, done.said
    assert beside.done > 0
    prove(lake, reference)
    for act in acts:
        act(lake / "laion.lance")
    again = head.embed(shards, lake)  # it still knows what is done
    assert (again.code, again.summary["skipped"], again.summary["committed"]) == (0, 10, 0), again.said
    prove(lake, reference)
