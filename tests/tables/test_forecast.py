"""A forecast without Ray: sampled counts, sizes, time and commits, held against what is there."""

import gzip
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pytest

import pipeline.forecast
from jobs.options import require_dry_run
from pipeline.barred import Barred
from pipeline.capacity import Capacity, Group
from pipeline.cluster import Placement
from pipeline.committer import Committer
from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Footprint, Model
from pipeline.errors import ConfigError
from pipeline.forecast import Limits, forecast, pairs_of
from pipeline.forecasts.advice import advise
from pipeline.forecasts.choice import Stratum, bytes_of, choose, extent
from pipeline.forecasts.measure import Measured
from pipeline.forecasts.network import Node, bits_of, traffic
from pipeline.forecasts.outlook import Cluster, Forecast, Pace
from pipeline.forecasts.report import lines, show
from pipeline.forecasts.sampling import Budget, Sampled, sample
from pipeline.forecasts.schedule import Speed, commits, finishes
from pipeline.forecasts.totals import totals
from pipeline.proof import Whole
from pipeline.records import SliceRecord
from pipeline.schema import RUNS
from pipeline.shards import Shard, Slice
from tests.fakes import CONTRACT, FakeEmbedder, FakeEmbeddings, FakePreparer, fake_model
from tests.ingest import Lake
from tests.shards import Member, members, picture, shard, whole, write_parquet, write_tar

JPEGS = [picture(i, size=(8 + 4 * (i % 11), 8 + 3 * (i % 7))) for i in range(77)]
SIZES = (150, 300, 600, 900, 1400, 2000, 2600)  # samples of the tars


@dataclass
class Made:
    """Shards, and what is in them."""

    folder: Path
    samples: int = 0
    pairs: int = 0
    rejects: int = 0

    def add(self, number: int) -> tuple[bytes, list[str]]:
        """The next sample: 1 to 3 captions; one picture in 40 is broken."""
        random = np.random.default_rng(number)
        captions = [
            f"caption {i} " + "of some length " * int(random.integers(0, 6)) for i in range(random.integers(1, 4))
        ]
        broken = random.random() < 1 / 40
        self.samples += 1
        self.pairs += len(captions)
        self.rejects += len(captions) if broken else 0
        return (b"no picture at all" if broken else JPEGS[int(random.integers(77))]), captions

    def tar(self, name: str, start: int, count: int) -> None:
        items: list[Member] = []
        for i in range(start, start + count):
            image, captions = self.add(i)
            items += [(f"{i:06d}.jpg", image), (f"{i:06d}.json", json.dumps({"caption": captions}).encode())]
        write_tar(self.folder / name, items)

    def parquet(self, name: str, start: int, count: int) -> None:
        images, captions = zip(*(self.add(i) for i in range(start, start + count)), strict=True)
        columns = {"key": [f"{i}" for i in range(count)], "image": list(images), "caption": list(captions)}
        write_parquet(self.folder / name, columns)

    @property
    def slices(self) -> list[Slice]:
        return [whole(path) for path in sorted(self.folder.iterdir())]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Some 20,000 pairs in shards of very different sizes."""
    made, start = Made(tmp_path_factory.mktemp("made")), 0
    for number, count in enumerate(SIZES):
        made.tar(f"{number:05d}.tar", start, count)
        start += count
    made.tar("00100.tar.gz", start, 1000)
    made.parquet("00200.parquet", start + 1000, 1200)
    return made


def sampled(made: Made, budget: Budget, most: int = 32) -> Sampled:
    return sample(choose(made.slices, most), ReadConfig((str(made.folder),)), FakePreparer(), Barred(), budget)


def test_forecast_of_20_000_pairs_is_right_within_5_percent_after_a_fifth_of_them(made: Made) -> None:
    assert made.pairs > 20_000
    found = totals(sampled(made, Budget(samples=2000, seconds=1000)).looks)
    assert found.read < made.samples / 4
    for estimate, truth in ((found.samples, made.samples), (found.pairs, made.pairs)):
        assert abs(estimate.value - truth) < 0.05 * truth
        assert 0 < estimate.margin < 0.05 * truth
    assert abs(found.rejects.value - made.rejects) < 2 * found.rejects.margin  # so few are seen that 5% would be luck
    assert found.reasons.keys() == {"undecodable"}


def test_forecast_that_reads_all_is_exact(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.tar("0.tar", 0, 300)
    made.tar("1.tar.gz", 300, 200)
    made.parquet("2.parquet", 500, 100)
    found = totals(sampled(made, Budget(seconds=1000)).looks)
    exact = [(e.value, e.margin) for e in (found.samples, found.pairs, found.rejects)]
    assert exact == [(made.samples, 0), (made.pairs, 0), (made.rejects, 0)]
    assert found.reasons == {"undecodable": made.rejects}


def test_forecast_looks_into_few_of_many_shards_and_they_stand_for_all(made: Made) -> None:
    few = sampled(made, Budget(samples=3000, seconds=1000), most=4)
    assert len(few.looks) < len(made.slices)
    assert sum(len(look.stratum.slices) for look in few.looks) == len(made.slices)
    pairs = pairs_of(made.slices, few.looks)
    assert sum(pairs) == pytest.approx(totals(few.looks).pairs.value)
    assert sum(pairs) == pytest.approx(made.pairs, rel=0.05)


def test_choice_is_the_same_whatever_the_order_and_each_slice_is_in_one_stratum() -> None:
    slices = [Slice(Shard(f"s{i}", f"s{i}.tar", 1000 + i * i, ""), 0, 1, None) for i in range(500)]
    strata = choose(slices, 16)
    assert [s.chosen.name for s in strata] == [s.chosen.name for s in choose(slices[::-1], 16)]
    assert sorted(s.name for stratum in strata for s in stratum.slices) == sorted(s.name for s in slices)
    assert len(strata) <= 16
    assert sum(s.times * bytes_of(s.chosen) for s in strata) == pytest.approx(sum(map(bytes_of, slices)))


def test_forecast_names_a_shard_that_cannot_be_read_and_another_stands_for_the_rest(tmp_path: Path) -> None:
    for i in range(6):
        write_tar(tmp_path / f"{i}.tar", members(10, start=10 * i))
    whole_bytes = (tmp_path / "3.tar").read_bytes()
    (tmp_path / "3.tar").write_bytes(whole_bytes[: len(whole_bytes) // 2])
    slices = [whole(path) for path in sorted(tmp_path.iterdir())]
    found = sample([Stratum(tuple(slices))], ReadConfig((str(tmp_path),)), FakePreparer(), Barred(), Budget())
    counts = totals(found.looks)
    assert list(counts.failing) == ["3.tar"]
    assert "cut short" in counts.failing["3.tar"]
    assert counts.pairs.value == pytest.approx(50, rel=0.02)


def test_rejects_that_were_not_seen_may_still_be_there(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", members(400))
    found = sample(
        choose([whole(tmp_path / "a.tar")], 1), ReadConfig(("x",)), FakePreparer(), Barred(), Budget(samples=128)
    )
    estimate = totals(found.looks).rejects
    assert (estimate.value, round(estimate.margin)) == (0, round(3 / 128 * 400))


@contextmanager
def no_cluster() -> Iterator[Capacity]:
    two_cpus = (Group(1, 2.0, 0.0),)
    yield Capacity(two_cpus, two_cpus)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Forecast]:
    """A forecast with a cluster that says what the test wants."""

    def tell(lake: Path, shards: Path, measured: Measured | str = "no cluster", **more: object) -> Forecast:
        monkeypatch.setattr(pipeline.cluster, "joined", no_cluster)
        monkeypatch.setattr(pipeline.forecast, "nodes_up", list)
        monkeypatch.setattr(pipeline.forecast, "measure", lambda *what: measured)
        config = RunConfig(ReadConfig((str(shards),)), WriteConfig(str(lake)), EmbedConfig(), FaultConfig())
        return forecast(config, fake_model(), limits=Limits(Budget(seconds=1000)), **more)  # type: ignore[arg-type]

    return tell


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file and its bytes."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


QUICK = Measured(1, 1000.0, 500.0, 10, 640, 1.0, 2.0, Footprint(1000, 5000, 64), "float32")


def test_forecast_makes_no_table_where_there_is_none(told: Callable[..., Forecast], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", members(100))
    one = told(tmp_path / "lake", tmp_path / "shards", QUICK, gpu_hour_price=2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert (one.todo.shards, one.todo.bytes) == (1, (tmp_path / "shards" / "a.tar").stat().st_size)
    assert one.pace.seconds == pytest.approx(2.0 + 100 / 500, abs=0.5)
    assert (one.pace.commits, one.fragments, one.cost) == (1, 1, 0)
    assert json.loads(json.dumps(one.to_dict()))["cluster"]["footprint"] == {
        "weights": 1000,
        "memory": 5000,
        "micro_batch": 64,
        "compiled": None,
    }


@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "not yet absorbed"])
def test_forecast_of_a_partly_done_table_tells_both_parts_and_touches_no_byte(
    told: Callable[..., Forecast], tmp_path: Path, absorbed: bool
) -> None:
    lake = Lake(tmp_path)
    for i in range(4):
        lake.write(f"{i}.tar", 40 * i, 30, 4)
    lake.run("0.tar", "1.tar")
    lake.write("1.tar", 200, 31, 4)  # changed since
    if not absorbed:
        shutil.rmtree(tmp_path / "lake" / "laion_shards.lance")
    before = fingerprint(tmp_path)
    one = told(tmp_path / "lake", lake.root, QUICK)
    assert fingerprint(tmp_path) == before
    assert (one.done.part.shards, one.done.pairs, one.done.rejects) == (1, 30, 4)
    assert (one.todo.shards, one.changed, one.found.shards) == (3, 1, 4)
    assert (one.totals.pairs.value, one.totals.rejects.value) == (34 + 34 + 35, 12)


def test_forecast_of_what_is_done_asks_no_cluster(told: Callable[..., Forecast], tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.write("0.tar", 0, 30)
    lake.run("0.tar")
    one = told(tmp_path / "lake", lake.root)
    assert (one.todo.slices, one.cluster, one.pace.seconds, one.pace.commits) == (0, None, 0, 0)


def test_forecast_without_a_measurement_goes_by_an_earlier_run_or_says_that_it_does_not_know(
    told: Callable[..., Forecast], tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    for i in range(2):
        lake.write(f"{i}.tar", 100 * i, 100)
    lake.run("0.tar", recorded=False)
    one = told(tmp_path / "lake", lake.root, "no node is up")
    assert (one.pace.rate, one.pace.seconds, one.pace.commits) == (None, None, None)
    assert dict(lines(one))["time"] == "not known"
    summary = {"rows": 5000, "pairs_per_second": 50.0}
    lake.record_run("abc", 5000)
    rows = lake.companion("runs").to_table().to_pylist()
    rows[0] |= {"summary": json.dumps(summary), "compute": json.dumps({"device": "cpu", "actors": 2})}
    shutil.rmtree(tmp_path / "lake" / "laion_runs.lance")
    lake.database.append("runs", pa.Table.from_pylist(rows, schema=RUNS))
    one = told(tmp_path / "lake", lake.root, "no node is up")
    assert one.pace.rate == 25.0  # of one actor
    assert one.pace.seconds == pytest.approx(100 / 25)
    assert "estimated from run abc" in one.pace.source


FROM_ZERO = Capacity((Group(1, 0, 0),), (Group(1, 0, 0), Group(8, 16, 1, "L40S"), Group(4, 32, 0)))


@pytest.fixture
def from_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Forecast]:
    """A forecast where no node is up, and the model has 362 GFLOP a pair."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", members(200))
    asked: list[tuple[float, float]] = []

    def operations(tokens: float, captions: float) -> float:
        asked.append((tokens, captions))
        return 362e9

    @contextmanager
    def joined(has: Capacity) -> Iterator[Capacity]:
        yield has

    def tell(has: Capacity = FROM_ZERO, embed: EmbedConfig | None = None) -> Forecast:
        monkeypatch.setattr(pipeline.cluster, "joined", lambda: joined(has))
        monkeypatch.setattr(pipeline.forecast, "nodes_up", list)
        monkeypatch.setattr(pipeline.forecast, "measure", lambda *what: "no node is up")
        config = RunConfig(
            ReadConfig((str(tmp_path / "shards"),)), WriteConfig(str(tmp_path / "lake")), embed or EmbedConfig()
        )
        model = replace(fake_model(), operations=operations, weights_on_disk=lambda: 3_500_000_000)
        one = forecast(config, model, gpu_hour_price=3.6, limits=Limits(Budget(seconds=1000)))
        assert asked[-1] == (pytest.approx(2.0), 1.0)  # tokens of "caption 7", captions of a picture
        return one

    return tell


def test_forecast_of_a_cluster_from_zero_estimates_by_what_is_published_and_says_so(
    from_zero: Callable[..., Forecast],
) -> None:
    one = from_zero()
    assert one.cluster is not None
    assert (one.cluster.placement.actors, one.pace.estimated) == (1, True)  # one slice, so one node is enough
    assert one.pace.embed == pytest.approx(0.4 * 1000)  # 362 TFLOP/s of an L40S
    assert one.pace.read == pytest.approx(one.pace.readers / one.totals.seconds)
    assert one.pace.readers == 8 * 16 + 4 * 32 - 1
    read, embed = one.totals.seconds, 1 / one.pace.embed  # of a pair; a single slice has a single reader
    assert one.pace.seconds == pytest.approx(max(200 * read + embed, read + 200 * embed))
    assert (one.pace.commits, one.cost) == (1, pytest.approx(one.pace.seconds / 1000))
    shown = dict(lines(one))
    assert one.pace.source in shown["speed"]  # the same words for machines
    assert one.to_dict()["pace"]["source"] == one.pace.source
    for words in (
        "estimated: 362.0 GFLOP a pair, counted; 1 GPUs at 40%, which is assumed",
        "(362 of L40S)",
        "no node is up",
    ):
        assert words in one.pace.source
    assert all(shown[name].startswith("about ") for name in ("speed", "time", "commits", "cost"))
    assert shown["actor"].startswith("weights of 3.5 GB on disk, about as much in memory")
    assert "micro-batch 64 at most" in shown["actor"]


@pytest.mark.parametrize(
    ("has", "embed", "why"),
    [
        (
            Group(8, 16, 1),
            EmbedConfig(),
            "which GPU the nodes have is not told: name it in the cluster's file, .*L40S: 1",
        ),
        (Group(8, 16, 1, "T4"), EmbedConfig(), "of T4: published speeds known are of A100, .*, L4, L40S"),
        (
            Group(8, 16, 1, "L40S"),
            EmbedConfig(dtype="float32"),
            "published speeds are those of bfloat16, not of float32",
        ),
        (Group(8, 16, 0), EmbedConfig(), "no speed of a CPU is published"),
    ],
)
def test_forecast_of_a_cluster_from_zero_says_why_it_estimates_nothing(
    from_zero: Callable[..., Forecast], has: Group, embed: EmbedConfig, why: str
) -> None:
    one = from_zero(Capacity((), (has,)), embed)
    assert (one.pace.rate, one.pace.seconds, one.cost, one.pace.estimated) == (None, None, None, False)
    assert re.search(f"^not measured: no node is up; nor estimated: {why}", one.pace.source)


class RandomEmbedder(FakeEmbedder):
    """Vectors as a model gives them: no two alike."""

    def embed(self, pixels: np.ndarray, token_ids: list[list[int]], image_of: list[int]) -> FakeEmbeddings:
        vectors = np.random.default_rng().normal(size=(3, len(image_of), 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        return FakeEmbeddings(*vectors, *np.random.default_rng().random((2, len(image_of)), dtype=np.float32))


def test_forecast_of_the_tables_size_is_that_of_a_real_table(
    told: Callable[..., Forecast], made: Made, tmp_path: Path
) -> None:
    lake = Lake(tmp_path, model=Model(CONTRACT, FakePreparer, RandomEmbedder))
    for name in ("00001.tar", "00002.tar"):
        shutil.copy(made.folder / name, lake.root / name)
    one = told(tmp_path / "elsewhere", lake.root, QUICK)
    lake.run("00001.tar", "00002.tar")
    real = sum(path.stat().st_size for path in (tmp_path / "lake" / "laion.lance" / "data").iterdir())
    assert one.table_bytes == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_commits_are_counted_as_the_committer_makes_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    finished = sorted(np.round(random.random(random.integers(1, 60)) * 100).tolist())
    rows = random.choice([0, 100, 4_000, 12_000], len(finished)).tolist()
    left = list(zip(finished, rows, strict=True))
    committer = Committer.__new__(Committer)  # of which only what waits matters
    record = SliceRecord("laion", "", "", "a.tar", "a.tar", 1, 1, "e", "a", "r", read=3)
    committer._whole, committer._failed, committer._last_commit, made = [], [], -float("inf"), 0
    for now in np.arange(0, max(finished) + 0.5, 0.5):  # as the driver's loop, twice a second
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        while left and left[0][0] <= now:
            committer._whole.append(Whole(record, rows=left.pop(0)[1]))
        if committer.due(CONFIG.write.commit_after(committer.waiting)):
            made, committer._whole, committer._last_commit = made + 1, [], now
    made += bool(committer._whole)  # the last, at the end
    assert commits(zip(finished, rows, strict=True), CONFIG.write.commit_after) == made


def test_slices_finish_as_the_slower_half_lets_them() -> None:
    by_readers = Speed(2, read=10.0, embed=1000.0, reading_after=1, embedding_after=5)
    assert finishes([100.0] * 4, by_readers) == pytest.approx([11, 11, 21, 21], abs=0.01)
    by_actors = Speed(2, read=1000.0, embed=10.0, reading_after=1, embedding_after=5)
    assert max(finishes([100.0] * 4, by_actors)) == pytest.approx(45)
    assert by_readers.rate == 20


def test_slices_of_readers_side_by_side_end_a_block_apart() -> None:
    """An actor takes the readers' blocks in turn: of the first two slices 1, 2, 1 and 2."""
    speed = Speed(2, read=1000.0, embed=10.0, reading_after=0, embedding_after=5, block=50)
    assert finishes([100.0, 100.0, 50.0], speed) == pytest.approx([20, 25, 30])
    assert finishes([100.0, 100.0, 50.0], replace(speed, actors=2)) == pytest.approx([25, 25, 35])


def outlook(told: Forecast, pace: Pace, actors: int = 4, gpus: float = 1.0) -> Forecast:
    on = Placement(actors, actors, 1.0, 1.0, 0.25 if gpus else 0.0, "cuda" if gpus else "cpu", "bfloat16", "test")
    return replace(told, pace=pace, cluster=Cluster(on, 8.0, gpus, Footprint(10**9, 3 * 10**9, 64), "bfloat16", None))


@pytest.fixture
def plain(told: Callable[..., Forecast], tmp_path: Path) -> tuple[Forecast, list[Slice]]:
    (tmp_path / "shards").mkdir()
    path = write_tar(tmp_path / "shards" / "a.tar", members(20))
    return told(tmp_path / "lake", tmp_path / "shards", QUICK), [whole(path)]


CONFIG = RunConfig(ReadConfig(("x",)), WriteConfig("y"))


def test_advice_is_silent_where_all_is_well(plain: tuple[Forecast, list[Slice]]) -> None:
    assert advise(outlook(plain[0], Pace(100, 1, 1, "", 1, 2000.0, 1000.0)), CONFIG, plain[1], {}) == ()


def test_advice_tells_how_many_cpus_a_gpu_needs(plain: tuple[Forecast, list[Slice]]) -> None:
    slow = outlook(plain[0], Pace(500, 1, 1, "", 4, 500.0, 1000.0))
    (one,) = advise(slow, CONFIG, plain[1] * 4, {})
    assert "4 readers prepare 500 pairs/s, 4 actors could embed 1,000" in one.what
    assert one.do == "have 12 CPUs instead of 8, 12 for each GPU, or --actors 2"


ON_GPUS = Cluster(Placement(8, 8, 1.0, 1.0, 1.0, "cuda", "bfloat16", "test"), 0.0, 8.0, None, "bfloat16", None)
PACE = Pace(8000.0, 1, 1, "", 248, 248 * 40.0, 8000.0)
HAS = Capacity((), (Group(2, 32, 4, "L40S"), Group(6, 32, 0)))  # 64 CPUs beside the GPUs, 8 of them the actors'
SIZES_OF_A_PAIR = (100_000.0, 294 * 294 * 3.0)


def test_traffic_is_spread_as_the_cpus_are() -> None:
    found = traffic(ON_GPUS, HAS, PACE, SIZES_OF_A_PAIR, [Node(None, 25e9, 0.0), Node(None, 0.0, 4.0)])
    assert found is not None
    away = 192 / 248
    assert (found.embedding.nodes, found.reading.nodes, found.card, found.told) == (2, 6, 1.25e9, False)
    assert found.embedding.squares == pytest.approx(8000 * away * 259_308 / 2)
    assert found.reading.squares * 6 == pytest.approx(found.embedding.squares * 2)  # what is sent is got
    assert found.embedding.shards * 2 + found.reading.shards * 6 == pytest.approx(8000 * 100_000)
    assert found.cpus == (8000 / 40 + 8) / 2


@pytest.mark.parametrize(
    ("has", "on", "embedding", "reading"),
    [
        (Capacity((), (Group(1, 32, 8),)), ON_GPUS, 1, 0),  # all in one node
        (HAS, replace(ON_GPUS, placement=replace(ON_GPUS.placement, actors=1)), 1, 7),  # the other GPU node only reads
        (HAS, replace(ON_GPUS, placement=replace(ON_GPUS.placement, num_gpus=0.0)), 0, 8),  # torch computes on CPUs
    ],
)
def test_traffic_of_pictures_is_between_nodes_that_embed_and_others(
    has: Capacity, on: Cluster, embedding: int, reading: int
) -> None:
    found = traffic(on, has, PACE, SIZES_OF_A_PAIR, [])
    assert found is not None
    assert (found.embedding.nodes, found.reading.nodes) == (embedding, reading)
    assert (found.embedding.squares > 0) == (found.reading.squares > 0) == (embedding > 0 and reading > 0)
    assert found.embedding.shards * embedding + found.reading.shards * reading == pytest.approx(8e8)


def test_traffic_is_not_known_without_a_pace() -> None:
    assert traffic(ON_GPUS, HAS, Pace(None, None, None, ""), SIZES_OF_A_PAIR, []) is None


def test_network_card_is_that_of_the_address_and_tells_only_while_it_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {name: [SimpleNamespace(address=address)] for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"))}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    stats = {"a": SimpleNamespace(isup=True, speed=25_000), "b": SimpleNamespace(isup=False, speed=10_000)}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)
    assert [bits_of(address) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3")] == [25e9, 0, 0]


@pytest.mark.parametrize(
    ("bits", "rate", "said"),
    [
        (0.0, 12_000.0, ["2 nodes with GPUs gets 1.2 GB/s", "takes 1.2 GB/s, assumed, since no node told"]),
        (25e9, 12_000.0, []),
        (25e9, 40_000.0, ["2 nodes with GPUs gets 4.0 GB/s", "network card takes 3.1 GB/s"]),
        (100e9, 40_000.0, []),
    ],
)
def test_advice_warns_where_the_network_is_the_limit(
    plain: tuple[Forecast, list[Slice]], bits: float, rate: float, said: list[str]
) -> None:
    pace = replace(PACE, rate=rate, read=rate, embed=rate)
    network = traffic(ON_GPUS, HAS, pace, SIZES_OF_A_PAIR, [Node(None, bits, 4.0)])
    told = replace(plain[0], pace=pace, network=network)
    found = [a for a in advise(told, CONFIG, plain[1] * 999, {}) if a.what.startswith("the network")]
    assert bool(found) == bool(said)
    for words in said:
        assert words in found[0].what
    assert not found or "have more CPUs on GPU nodes (" in found[0].do


def test_advice_warns_where_reading_is_more_than_the_network_takes(plain: tuple[Forecast, list[Slice]]) -> None:
    network = traffic(replace(ON_GPUS, placement=replace(ON_GPUS.placement, num_gpus=0.0)), HAS, PACE, (2e6, 0.0), [])
    told = replace(plain[0], pace=PACE, network=network)
    (one,) = [a for a in advise(told, CONFIG, plain[1] * 999, {}) if a.what.startswith("the network")]
    assert "each of 8 nodes reads 2.0 GB/s of shards" in one.what
    assert "store the pictures smaller" in one.do


def test_advice_names_shards_stores_rejects_and_what_to_change(plain: tuple[Forecast, list[Slice]]) -> None:
    told, (small,) = plain
    large = Slice(Shard("l", "large.tar.gz", 5 * 2**30, ""), 0, 1, None)
    counts = replace(told.totals, rejects=replace(told.totals.rejects, value=10.0), reasons={"undecodable": 10})
    counts = replace(counts, failing={"b.tar": "b.tar: cut short"})
    pace = Pace(100, 1, 1, "", 3, 2000.0, 1000.0)
    bad = replace(outlook(told, pace), totals=counts, fragments=5000, quarantined=1)
    found = "\n".join(f"{a.what} -> {a.do}" for a in advise(bad, CONFIG, [small, large], {"bucket": "eu-west-1"}))
    for words in (
        "shards too large: 2 slices for 3 readers",
        "large.tar.gz has 5.0 GiB",
        "shards too small: about 10 pairs each, so the table gets 5,000 small fragments",
        "1 shards are gzipped",
        "about 50% of the pairs will be rejected, and the run ends above 10%: undecodable 10",
        "a shard cannot be read: b.tar: cut short",
        "1 shards are left alone",
        "bucket bucket is in eu-west-1",
        "run the cluster in eu-west-1",
    ):
        assert words in found


def test_report_tells_the_cost_and_what_an_actor_takes(plain: tuple[Forecast, list[Slice]]) -> None:
    told = replace(outlook(plain[0], Pace(100, 5400.0, 9, "measured")), gpu_hour_price=4.0)
    assert told.cost == 6.0
    stream = io.StringIO()
    show(told, stream)
    for words in (
        "6.00 (1 GPUs at 4 an hour)",
        "3.0 GB of the GPU at most",
        "4 to a GPU",
        "1h30m",
        "nothing was written",
    ):
        assert words in " ".join(stream.getvalue().split())


def test_log_of_a_run_does_not_go_with_a_dry_run() -> None:
    with pytest.raises(ConfigError, match="--log-json does not go with --dry-run"):
        require_dry_run(True, None, log_json=True)


def test_price_goes_with_a_dry_run_and_is_not_negative() -> None:
    require_dry_run(True, 0.0)
    with pytest.raises(ConfigError, match="--gpu-hour-price goes with --dry-run"):
        require_dry_run(False, 2.0)
    with pytest.raises(ConfigError, match="--gpu-hour-price -1 is not valid"):
        require_dry_run(True, -1)


def test_gzipped_shard_larger_than_what_its_footer_can_tell_is_not_taken_for_a_small_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar.gz", members(50))
    real = len(gzip.decompress(path.read_bytes()))
    assert extent(whole(path)).bytes == real - 1024
    path.write_bytes(path.read_bytes()[:-4] + (7).to_bytes(4, "little"))  # as if 4 GiB and 7 bytes were in it
    assert extent(Slice(shard(path), 0, 1, None)).bytes == 2**32 + 7 - 1024
