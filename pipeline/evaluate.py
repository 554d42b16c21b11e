"""How well a model finds pictures by captions and captions by pictures: recall by ITC, and after an ITM rerank.

Pairs (a table's vectors, or shards embedded here) -> nearest by cosine, both ways -> the best, ordered by ITM -> recall
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.config import Contract, ReadConfig
from pipeline.contract import contract_of, require_contract
from pipeline.database import Database
from pipeline.embed import Preparer, Vectors
from pipeline.errors import ConfigError
from pipeline.evaluation.matching import TIE, Matcher, margins
from pipeline.evaluation.pairs import Pairs, Towers, from_shards, from_table
from pipeline.evaluation.ranking import KS, Figures, Places, nearest, own, reranked
from pipeline.plain import plain
from pipeline.retrieval.where import check_where
from pipeline.stores.storage import redact
from pipeline.watch.progress import duration

RERANK_TOP = 20
_EVERY = 10.0  # seconds between two lines of progress


class EvaluationEncoder(Towers, Matcher, Protocol):
    """The model, as an evaluation needs it."""


@dataclass(frozen=True, slots=True)
class EvaluationModel:
    """What an evaluation knows of a model: its contract, and how to get its two halves once they are needed."""

    contract: Contract
    preparer: Callable[[], Preparer]
    encoder: Callable[[], EvaluationEncoder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What to evaluate, checked: the rows of a table, or shards that are embedded here, without a table."""

    read: ReadConfig | None = None  # shards instead of the table
    where: str = ""  # an SQL condition that a table's rows must meet
    version: int | str | None = None  # of the table: a number or a tag
    limit: int | None = None  # distinct pictures
    rerank_top: int = RERANK_TOP  # so many of the best by ITC are ordered by ITM; 0 for none

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit} is not valid: allowed is a number above 0")
        if self.rerank_top < 0:
            raise ConfigError(f"--rerank-top {self.rerank_top} is not valid: allowed is 0, for none, or more")
        if self.read is not None and (self.where.strip() or self.version is not None):
            raise ConfigError("--where and --version choose rows of a table; with --input choose by naming the shards")


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found."""

    source: str
    model: str
    pictures: int
    pairs: int
    shared: int  # captions that stand with several pictures; only the picture of each counts
    rejects: Mapping[str, int]
    itc: Figures
    itm: Figures | None
    rerank_top: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As one object for machines; recall in percent."""
        told = {name: getattr(self, name) for name in ("source", "model", "pictures", "pairs", "rerank_top", "seconds")}
        figures = {"itc": self.itc.to_dict(), "itm": self.itm and self.itm.to_dict()}
        return told | {"shared_captions": self.shared, "rejects": dict(self.rejects)} | figures

    def lines(self) -> list[str]:
        """As a table for people."""
        each = self.pairs / self.pictures
        rows = {"ITC": self.itc} | ({f"ITM rerank of the top {self.rerank_top}": self.itm} if self.itm else {})
        wide = max(map(len, rows))
        names = [f"{side}@{k}" for side in ("IR", "TR") for k in KS]
        lines = [
            f"{self.source}: {self.pictures:,} pictures, {self.pairs:,} captions ({each:.3g} a picture), {self.model}",
            f"{'':{wide}}" + "".join(f"{name:>8}" for name in names) + f"{'RSUM':>9}",
        ]
        for name, found in rows.items():
            values = "".join(f"{value:8.2f}" for value in (*found.ir, *found.tr))
            lines.append(f"{name:{wide}}{values}{found.rsum:9.2f}")
        lines.append(f"took {duration(self.seconds)}")
        if self.shared:
            lines.append(f"note: {self.shared:,} captions stand with several pictures; for each only its own counts")
        if self.rejects:
            told = ", ".join(f"{reason} {n}" for reason, n in sorted(self.rejects.items()))
            lines.append(f"note: {sum(self.rejects.values()):,} pairs could not be read and are left out: {told}")
        return lines


def evaluate(
    database: Database, asked: Evaluation, model: EvaluationModel, say: Callable[[str], None] = lambda line: None
) -> Report:
    """Evaluate a model on the pairs of a table or of shards.

    Args:
        database: with the table; not looked at where `asked` names shards.
        asked: what to evaluate.
        model: of the table, or to be used on the shards.
        say: told now and then how far it is.

    Raises:
        ConfigError: an option that is not valid, a bad condition, too many pairs.
        TableError, ContractError: no table, one without image or text vectors, or one made with another model.
        InputError: no pair, or a shard that cannot be read.
        FetchError: a picture cannot be had for the rerank.
    """
    began = time.monotonic()
    if asked.read is not None:
        pairs = from_shards(asked.read, model.preparer(), model.encoder(), asked.limit)
        source = ", ".join(asked.read.inputs)
    else:
        pairs, source = _of_table(database, asked, model)
    say(f"{len(pairs.rows):,} pictures, {len(pairs.captions):,} captions")
    best = max(*KS, asked.rerank_top)
    images_of = nearest(pairs.texts, pairs.images, best)
    texts_of = nearest(pairs.images, pairs.texts, best)
    ir, tr = own(images_of, pairs.texts, pairs.images), own(texts_of, pairs.images, pairs.texts)
    itm = None
    if asked.rerank_top:
        top = asked.rerank_top
        of_images, of_texts = _looked_at(pairs, images_of[:, :top], texts_of[:, :top], model, say)
        itm = Figures.of(reranked(ir, of_images, TIE), reranked(tr, of_texts, TIE))
    return Report(
        source=plain(redact(source)),
        model=model.contract.checkpoint,
        pictures=len(pairs.rows),
        pairs=len(pairs.captions),
        shared=pairs.shared,
        rejects=pairs.rejects,
        itc=Figures.of(ir, tr),
        itm=itm,
        rerank_top=asked.rerank_top,
        seconds=round(time.monotonic() - began, 3),
    )


def _of_table(database: Database, asked: Evaluation, model: EvaluationModel) -> tuple[Pairs, str]:
    dataset, where = database.require(asked.version), database.shown
    require_contract(where, contract_of(where, dataset.schema), model.contract)
    if asked.where.strip():
        check_where(dataset, asked.where)
    pairs = from_table(database, dataset, asked.where.strip(), asked.limit)
    chosen = f" where {asked.where}" if asked.where.strip() else ""
    return pairs, f"{where} at version {dataset.version}{chosen}"


def _looked_at(
    pairs: Pairs, images_of: Places, texts_of: Places, model: EvaluationModel, say: Callable[[str], None]
) -> tuple[Vectors, Vectors]:
    """ITM margins of the best pictures of each caption, and of the best captions of each picture."""
    captions = len(pairs.captions)
    from_texts = images_of * captions + np.arange(captions)[:, None]
    from_images = np.arange(len(pairs.rows))[:, None] * captions + texts_of
    codes = np.unique(np.concatenate([from_texts.ravel(), from_images.ravel()]))
    found = margins(pairs, codes, model.preparer(), model.encoder(), _now_and_then(say))
    return found[np.searchsorted(codes, from_texts)], found[np.searchsorted(codes, from_images)]


def _now_and_then(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Tells of the pictures looked at, at most every few seconds."""
    last = time.monotonic()

    def told(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            say(f"looked at {done:,} of {of:,} pictures")

    return told
