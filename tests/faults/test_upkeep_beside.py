"""Compaction, an index and clean-up while jobs embed: they conflict with commits, and nothing is lost."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from pipeline.database import Database
from pipeline.errors import BridgelakeError
from pipeline.upkeep.compact import Limits, compact
from tests.beside import over_and_over
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
    acted = []

    def look_after() -> None:
        for act in acts:  # refused where there is no table yet, no rows yet, or a commit of the job came first
            with suppress(OSError, ValueError, RuntimeError, BridgelakeError):
                act(lake / "laion.lance")
                acted.append(act)

    head.place(SLOWLY)
    with over_and_over(look_after):
        done = head.embed(shards, lake)
    assert done.code == 0, done.said
    assert acted
    prove(lake, reference)
    for act in acts:
        act(lake / "laion.lance")
    again = head.embed(shards, lake)  # it still knows what is done
    assert (again.code, again.summary["skipped"], again.summary["committed"]) == (0, 10, 0), again.said
    prove(lake, reference)
