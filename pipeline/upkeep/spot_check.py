"""A sample of rows, embedded again from their pictures and captions, against what is stored."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np

from pipeline.config import TAG_COLUMNS
from pipeline.contract import require_contract
from pipeline.database import Database
from pipeline.decode import Rejected, decode
from pipeline.embed import Model, Pixels, Preparer
from pipeline.fetch import Answer
from pipeline.retrieval.hits import PLACE, fetch_by_dataset
from pipeline.roots import source_roots
from pipeline.schema import EMBEDDING_COLUMNS, tagging_of
from pipeline.upkeep.accounts import Accounts
from pipeline.upkeep.findings import Findings

# How far two unit vectors may lie apart (Euclidean distance). Rounding to float16 moves one by 0.0005 at most; the
# rest is for other machines and other batches.
APART = {"halffloat": 2e-3, "float": 1e-4}
ON_GPU = 1e-2  # in float32: convolutions there may round to 10 bits
COARSE = 0.1  # in bfloat16 the model itself is coarser, or nothing tells how it computed: cosine 0.995
COARSER = 0.3  # in float8: cosine 0.955
_SCORE_APART = 5e-3  # or as far as vectors may, if that is more
_AT_ONCE = 16  # pictures
_WORDS, _PROBABILITIES = TAG_COLUMNS

Row = dict[str, Any]


def check_sample(database: Database, accounts: Accounts, model: Model, size: int, findings: Findings) -> None:
    """Embed `size` rows again, chosen at random, in float32 on the CPU.

    Rows of runs that computed on a GPU, in bfloat16 or float8, or of which no record tells how, are compared more
    coarsely. Pictures are decoded as their run did.

    Raises:
        ContractError: the table was made with another model.
    """
    require_contract(database.path(), accounts.rows.contract, model.contract)
    rows = _sample(accounts.rows.dataset, size)
    findings.checked["rows embedded again"] = 0
    if not rows:
        return
    (runs, drafted), dataset = _computed(database), accounts.rows.dataset
    answers = fetch_by_dataset(rows, source_roots(database))
    preparer, embedder = model.make_preparer(), model.make_embedder("cpu", "float32", _AT_ONCE)
    ready = list(_prepared(rows, answers, preparer, drafted, findings))
    for start in range(0, len(ready), _AT_ONCE):
        some = ready[start : start + _AT_ONCE]
        tokens = [ids for ids, _ in preparer.captions([one.row["caption"] for one in some])]
        again = embedder.embed_exactly(np.stack([one.square for one in some]), tokens, list(range(len(some))))
        for i, one in enumerate(some):
            fresh = {column: getattr(again, v)[i] for v, column in EMBEDDING_COLUMNS.items()}
            fresh |= {score: getattr(again, score)[i] for score in ("itc_score", "itm_score")}
            least = runs.get(one.row["run_id"], COARSE)
            wrong = _differs(one.row, fresh, dataset, least)
            if one.row.get(_WORDS) and again.tags is not None:
                told = dict(zip(again.tags.words[i], again.tags.probabilities[i].tolist(), strict=True))
                wrong += _differ_in_tags(one.row, told, max(least, _SCORE_APART))
            if wrong:
                findings.problem("sample", f"{_name(one.row)}: {'; '.join(wrong)}")
        findings.checked["rows embedded again"] += len(some)


def _sample(dataset: lance.LanceDataset, size: int) -> list[Row]:
    there = dataset.count_rows()
    chosen = np.random.default_rng().choice(there, size=min(size, there), replace=False)
    vectors = [c for c in EMBEDDING_COLUMNS.values() if c in dataset.schema.names]
    tags = TAG_COLUMNS if tagging_of(dataset.schema) else ()
    columns = [*PLACE, "caption", "width", "height", "run_id", "itc_score", "itm_score", *vectors, *tags]
    rows: list[Row] = dataset.take(sorted(chosen.tolist()), columns=columns).to_pylist()
    return rows


def _computed(database: Database) -> tuple[dict[str, float], set[str]]:
    """How far a run's vectors may lie apart at least, for how it computed; and the runs with --jpeg-draft."""
    table = database.open("runs")
    columns = ["run_id", "compute", "configuration"]
    runs = [] if table is None else database.scan("runs", table, columns).to_pylist()
    allowed = {("float32", "cpu"): 0.0, ("float32", "cuda"): ON_GPU, ("fp8", "cuda"): COARSER}
    how = {run["run_id"]: json.loads(run["compute"]) for run in runs}
    read = {run["run_id"]: json.loads(run["configuration"] or "{}").get("read", {}) for run in runs}
    coarse = {run_id: allowed.get((c.get("dtype"), c.get("device")), COARSE) for run_id, c in how.items()}
    return coarse, {run_id for run_id, config in read.items() if config.get("jpeg_draft")}


@dataclass(frozen=True, slots=True)
class _Ready:
    row: Row
    square: Pixels


def _prepared(
    rows: list[Row], answers: list[Answer], preparer: Preparer, drafted: set[str], findings: Findings
) -> Iterator[_Ready]:
    for row, image in zip(rows, answers, strict=True):
        if isinstance(image, Exception):
            findings.warn("not embedded again", str(image))
            continue
        try:
            resized = preparer.resized if row["run_id"] in drafted else None
            found = decode(image, row["width"] * row["height"], resized)
        except Rejected as error:
            findings.problem("sample", f"{_name(row)}: its picture is now {error.reason}: {error.detail}")
        else:
            yield _Ready(row, preparer.picture(found.picture, found.extent))


def _name(row: Row) -> str:
    return f"{row['dataset']} {row['shard']} key {row['key']}"


def _differs(row: Row, fresh: Mapping[str, Any], dataset: lance.LanceDataset, least: float) -> list[str]:
    """In what the row is not what the model gives."""
    wrong = []
    for name, value in fresh.items():
        if name not in row:
            continue  # a vector that is not stored
        vector = name in EMBEDDING_COLUMNS.values()
        allowed = max(least, APART[str(dataset.schema.field(name).type.value_type)] if vector else _SCORE_APART)
        apart = float(np.linalg.norm(np.asarray(row[name], np.float32) - value))
        if not apart <= allowed:
            wrong.append(f"{name} is {apart:.4g} from what the model gives now, allowed is {allowed:g}")
    return wrong


def _differ_in_tags(row: Row, told: Mapping[str, float], allowed: float) -> list[str]:
    """Words whose probability is another now; one that is no longer told has at most that of the last that is."""
    last = min(told.values())
    apart = {
        word: abs(probability - told.get(word, min(probability, last)))
        for word, probability in zip(row[_WORDS], row[_PROBABILITIES], strict=True)
    }
    said = "tag {!r} is {:.4g} from what the model tells now, allowed is {:g}"
    return [said.format(word, off, allowed) for word, off in apart.items() if not off <= allowed]
