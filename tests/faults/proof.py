"""Proves a table against that of a run without faults: id by id, vector by vector, and slice by slice in the ledger.

Written from the promise and the schemas alone, so that it shares no mistake with the code that it judges; `verify`,
which people have, is asked too.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pandas as pd

from pipeline.database import Database
from pipeline.upkeep.verify import verify
from tests.faults.model import MODEL

TOLERANCE = 2e-3  # of a stored float16 vector
_OF_THE_RUN = ["run_id"]


def prove(lake: Path, reference: Path, table: str = "laion") -> None:
    """After a run that ended well: the same rows and rejects as without faults, and a ledger that says so."""
    have, wanted = rows(lake, table), rows(reference, table)
    assert set(have["id"]) == set(wanted["id"]), _differing(have, wanted)
    _same_rows(have, wanted)
    agree(lake, table)
    assert _rejected(lake, table) == _rejected(reference, table)
    found = verify(Database(str(lake), table), MODEL, sample=5)
    assert found.ok, found.lines()


def sound(lake: Path, reference: Path, table: str = "laion") -> int:
    """At any moment: whole slices only, each row right and once; returns how many shards are committed as a whole."""
    if not (lake / f"{table}.lance").exists():
        return 0
    have, wanted = rows(lake, table), rows(reference, table)
    assert have["id"].is_unique
    assert set(have["id"]) <= set(wanted["id"])
    _same_rows(have, wanted[wanted["id"].isin(set(have["id"]))])
    records = current([record | {"version": version} for version, record in transactions(lake, table)])
    embedded: Counter[str] = Counter()
    for record in records:
        embedded[record["shard"]] += record["embedded"]
    assert Counter(have["shard"]) == +embedded
    slices = Counter(record["shard"] for record in records)
    return sum(slices[shard] == count for shard, count in {r["shard"]: r["slices"] for r in records}.items())


def agree(lake: Path, table: str = "laion") -> None:
    """Rows, rejects and ledger add up slice by slice, and the ledger has absorbed every commit once."""
    have, ledger = rows(lake, table), read(lake, f"{table}_shards")
    assert have["id"].is_unique
    records = current(ledger)
    for record in records:
        assert record["read"] == record["embedded"] + record["rejected"] + record["taken_down"], record
    embedded: Counter[tuple[str, str]] = Counter()
    for record in records:
        embedded[record["dataset"], record["shard"]] += record["embedded"]
    assert +embedded == Counter(zip(have["dataset"], have["shard"], strict=True))
    rejects = counting_rejects(lake, table)
    places = Counter(zip(rejects["dataset"], rejects["attempt"], rejects["position"], strict=True))
    assert set(places.values()) <= {1}, [place for place, n in places.items() if n > 1]
    rejected = {(r["dataset"], r["attempt"]): r["rejected"] for r in records if r["rejected"]}
    assert Counter(zip(rejects["dataset"], rejects["attempt"], strict=True)) == Counter(rejected)
    absorbed = Counter(
        (row["version"], row["dataset"], row["slice"], row["attempt"]) for row in ledger if row["version"]
    )
    assert set(absorbed.values()) <= {1}
    for version, record in transactions(lake, table):
        assert (version, record["dataset"], record["slice"], record["attempt"]) in absorbed, record


def current(ledger: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ledger's rows that count: each slice's latest, since its shard was last replaced."""
    landed = sorted((r for r in ledger if r["outcome"] in ("committed", "pruned")), key=lambda r: r["version"])
    since: dict[tuple[str, str], int] = {}
    for row in landed:
        if row["replaces"]:
            since[row["dataset"], row["shard"]] = row["version"]
    kept = [r for r in landed if r["version"] >= since.get((r["dataset"], r["shard"]), 0)]
    latest = {(r["dataset"], r["shard"], r["slice"]): r for r in kept}
    return [r for r in latest.values() if r["outcome"] == "committed"]


def counting_rejects(lake: Path, table: str = "laion") -> pd.DataFrame:
    """Rejects of attempts that count."""
    attempts = {(r["dataset"], r["attempt"]) for r in current(read(lake, f"{table}_shards"))}
    rejects = frame(lake, f"{table}_rejects")
    mine = [pair in attempts for pair in zip(rejects["dataset"], rejects["attempt"], strict=True)]
    return rejects[np.array(mine, dtype=bool)]


def rows(lake: Path, table: str = "laion") -> pd.DataFrame:
    """All rows of the table, by id."""
    return frame(lake, table).sort_values("id", ignore_index=True)


def ids(lake: Path, table: str = "laion") -> Counter[str]:
    """The table's ids, and how often each is there."""
    return Counter(rows(lake, table)["id"])


def contents(lake: Path, table: str = "laion") -> dict[str, frozenset[tuple[str, str]]]:
    """Of each shard, which pairs of which pictures the table has."""
    return {s: frozenset(zip(f["id"], f["sha256"], strict=True)) for s, f in rows(lake, table).groupby("shard")}


def frame(lake: Path, name: str) -> pd.DataFrame:
    """A table of the lake; one without rows if it is not there."""
    path = lake / f"{name}.lance"
    columns = ["dataset", "attempt", "slice", "position", "reason"]
    return lance.dataset(str(path)).to_table().to_pandas() if path.exists() else pd.DataFrame(columns=columns)


def read(lake: Path, name: str) -> list[dict[str, Any]]:
    """The same as plain values."""
    found: list[dict[str, Any]] = lance.dataset(str(lake / f"{name}.lance")).to_table().to_pylist()
    return found


def transactions(lake: Path, table: str = "laion") -> list[tuple[int, dict[str, Any]]]:
    """What the table's versions say that they brought, the oldest first; those cleaned up say nothing more."""
    dataset = lance.dataset(str(lake / f"{table}.lance"))
    found = []
    for version in (v["version"] for v in dataset.versions()):
        try:
            transaction = dataset.read_transaction(version)
        except TypeError:
            continue  # pylance 13 cannot show a compaction of an indexed table
        carried = ((transaction and transaction.transaction_properties) or {}).get("bridgelake.slices", "[]")
        found += [(version, record) for record in json.loads(carried)]
    return found


def _same_rows(have: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert len(have) == len(wanted), _differing(have, wanted)
    vectors = [c for c in wanted if c.endswith("_embedding")]
    for column in vectors:
        if len(wanted):
            mine, theirs = (np.stack(f[column]).astype(np.float32) for f in (have, wanted))
            np.testing.assert_allclose(mine, theirs, atol=TOLERANCE, err_msg=column)
    scores = [c for c in wanted if c.endswith("_score")]
    np.testing.assert_allclose(have[scores].to_numpy(), wanted[scores].to_numpy(), atol=TOLERANCE)
    plain = [c for c in wanted if c not in (*vectors, *scores, *_OF_THE_RUN)]
    pd.testing.assert_frame_equal(
        have[plain].reset_index(drop=True), wanted[plain].reset_index(drop=True), check_dtype=False
    )


def _rejected(lake: Path, table: str) -> Counter[tuple[str, int, str]]:
    rejects = counting_rejects(lake, table)
    return Counter(zip(rejects["slice"], rejects["position"], rejects["reason"], strict=True))


def _differing(have: pd.DataFrame, wanted: pd.DataFrame) -> str:
    mine, theirs = Counter(have["id"]), Counter(wanted["id"])
    keys = wanted.set_index("id")[["shard", "key"]]
    lost = [tuple(keys.loc[i]) for i in theirs - mine][:5]
    return f"{(theirs - mine).total()} rows lost ({lost} ...), {(mine - theirs).total()} twice or foreign"
