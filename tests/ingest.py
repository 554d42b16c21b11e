"""Shards embedded into a table as a run does it, slice by slice, with a fake model and without Ray."""

import json
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import lance
import pyarrow as pa

from pipeline.barred import Barred, Takedowns
from pipeline.committer import Committer
from pipeline.config import ReadConfig, Tagging
from pipeline.contract import Layout
from pipeline.database import Database
from pipeline.embed import Model, embed_batch
from pipeline.gather import End, positions_of
from pipeline.ledger import Ledger
from pipeline.prepare import prepare_slice
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.schema import RUNS, Kind, rows_schema
from pipeline.shards import Shard, Slice
from pipeline.stored import Stored
from pipeline.table import Change, Rows, commit, open_or_create
from pipeline.write import Job, Target, write_jobs
from tests.fakes import fake_model
from tests.shards import members, write_tar

READ_AS = '{"caption_keys": [], "image_key": null}'


@dataclass
class Lake:
    """A folder of shards, and a table of them."""

    folder: Path
    dataset: str = "laion"
    model: Model = field(default_factory=fake_model)
    storage: str = "float16"
    tags: Tagging | None = None
    jpeg_draft: bool = False

    @property
    def stored(self) -> Stored:
        return Stored(("image", "text", "cross"), self.model.contract.dimension, self.storage, (), self.tags)

    @property
    def layout(self) -> Layout:
        stored = self.stored
        schema = rows_schema((), stored.vectors, stored.dimension, stored.storage, stored.tags)
        return Layout(schema, self.model.contract)

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "lake"), "laion")

    @property
    def root(self) -> Path:
        root = self.folder / self.dataset
        root.mkdir(exist_ok=True)
        return root

    def rows(self) -> lance.LanceDataset:
        dataset = self.database.open()
        assert dataset is not None
        return dataset

    def companion(self, suffix: str) -> lance.LanceDataset:
        dataset = self.database.open(suffix)
        assert dataset is not None
        return dataset

    def ids(self) -> list[str]:
        return sorted(self.rows().to_table(columns=["id"])["id"].to_pylist())

    def write(self, name: str, start: int, good: int, bad: int = 0) -> None:
        """A tar whose last pictures cannot be decoded."""
        broken = [(m, b"GIF8 no more" if m.endswith(".jpg") else b) for m, b in members(bad, start + good)]
        write_tar(self.root / name, [*members(good, start), *broken])

    def run(self, *names: str, run_id: str | None = None, replaces: bool = False, recorded: bool = True) -> str:
        """Embed whole shards, one commit each; `recorded` False: as a run that was killed before its end."""
        run_id = run_id or uuid.uuid4().hex[:12]
        target = Target(self.database, self.layout.schema, self.dataset, run_id)
        ledger = Ledger(self.database, self.dataset)
        base = open_or_create(self.database, self.layout)
        if ledger.read_as is None:
            base = self._declare(base, run_id)
        committer = Committer(base, self.layout, target, ledger)
        for number, name in enumerate(names):
            slice_, record = self._record(name, f"{run_id}-{number}", run_id, replaces)
            blocks, end = self.embedded(slice_, record.attempt, committer.takedowns)
            positions = positions_of(blocks.filter(pa.compute.not_equal(blocks["kind"], Kind.END)))
            job = Job(record.attempt, (0,), positions, 1)
            assert committer.add(write_jobs(target, [job], blocks)[0], record, end)
            committer.commit()
        if recorded:
            self.record_run(run_id, committer.tally.embedded)
        return run_id

    def _declare(self, base: Rows, run_id: str) -> Rows:
        where = (self.dataset, str(self.root), READ_AS)
        declared = SliceRecord(*where, "", "", 0, 0, "", "", run_id, outcome=Outcome.DECLARED)
        return commit(self.database, base, self.layout, Change([], properties([declared]), self.dataset))

    def _record(self, name: str, attempt: str, run_id: str, replaces: bool) -> tuple[Slice, SliceRecord]:
        path = self.root / name
        slice_ = Slice(Shard(str(path), name, path.stat().st_size, f"{path.stat().st_mtime:.6f}"), 0, 1, None)
        where = (self.dataset, str(self.root), READ_AS, name, name, 1, slice_.shard.size, slice_.shard.etag)
        return slice_, replace(SliceRecord(*where, attempt, run_id), replaces=replaces)

    def record_run(
        self, run_id: str, rows: int, outcome: str = "done", dtype: str = "float32", device: str = "cpu"
    ) -> None:
        now = datetime.now(UTC)
        texts = {"summary": json.dumps({"rows": rows}), "compute": json.dumps({"dtype": dtype, "device": device})}
        texts["configuration"] = json.dumps({"read": {"jpeg_draft": self.jpeg_draft}})
        row = {"run_id": run_id, "started": now, "ended": now, "outcome": outcome, **texts}
        self.database.append("runs", pa.Table.from_pylist([row], schema=RUNS))

    def embedded(self, slice_: Slice, attempt: str, takedowns: Takedowns | None = None) -> tuple[pa.Table, End]:
        """All that a run makes of a slice before it is written."""
        config, preparer = ReadConfig((slice_.shard.uri,), jpeg_draft=self.jpeg_draft), self.model.make_preparer()
        barred = Barred(self.dataset, takedowns or Takedowns())
        prepared = pa.concat_tables(prepare_slice(slice_, attempt, config, preparer, barred))
        rows = embed_batch(prepared, self.model.make_embedder("cpu", "float32", 64), self.stored, 64)
        end = rows.filter(pa.compute.equal(rows["kind"], Kind.END)).to_pylist()[0]
        rows = rows.filter(pa.compute.not_equal(rows["kind"], Kind.CALL))
        return rows, End(end["pairs"], end["detail"], 0.5, end["fingerprint"])


def two_runs(folder: Path) -> Lake:
    """Three shards by two runs: 5 rows with tags and 2 rejects each."""
    lake = Lake(folder, tags=Tagging(2))
    for i in range(3):
        lake.write(f"{i}.tar", 10 * i, 5, 2)
    lake.run("0.tar", "1.tar")
    lake.run("2.tar")
    return lake
