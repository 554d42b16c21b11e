"""SQL asked of a table made by hand, and the same rows for pandas."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Keep
from pipeline.sql.answers import Answer
from pipeline.sql.engine import Statement, ask
from pipeline.sql.limits import Limits
from pipeline.sql.session import survey
from pipeline.sql.tables import Tables
from tests.lakes import DIMENSION, FakeLake, unit

ROWS = 1000
KEPT = (Keep("similarity", "float64"), Keep("Odd Name", "string"), Keep("safe", "bool"))


def wide_lake(folder: Path) -> FakeLake:
    """1,000 rows of as many pictures without shards, one in a hundred 4096 wide, with NULLs in the kept columns."""
    lake, random = FakeLake(folder), np.random.default_rng(3)
    for i in range(ROWS):
        width = 4096 if i % 100 == 37 else 64 + i % 7
        row = {"id": f"{i:06d}", "dataset": "laion", "shard": f"{i % 4:05d}.tar", "key": str(i), "caption_index": 0}
        row |= {"caption": f"caption {i}", "width": width, "height": 64, "sha256": f"{i:064d}", "run_id": f"r{i % 2}"}
        row |= {"itc_score": 0.5, "itm_score": i / ROWS, "url": None if i % 3 else f"https://a/{i}"}
        row |= {name: unit(random.normal(size=DIMENSION)) for name in ("image_embedding", "text_embedding")}
        row |= {"similarity": None if i % 5 == 0 else i / 10, "Odd Name": "o'x\"`" if i % 2 else None}
        row |= {"safe": (True, False, None)[i % 3]}
        lake.rows.append(row)
    return lake.write(keep=KEPT)


def sql(lake: FakeLake, text: str, version: int | str | None = None, limits: Limits | None = None) -> Answer:
    """What a statement gives."""
    return ask(lake.database, Statement(text, version, limits or Limits()), lambda: lake.model)


def frame(lake: FakeLake) -> pd.DataFrame:
    """The rows of a lake, but their vectors, in pandas."""
    return pd.DataFrame([{k: v for k, v in row.items() if not k.endswith("_embedding")} for row in lake.rows])


def hoists(lake: FakeLake, text: str) -> list[list[str]]:
    """What each search of a statement is asked before it is made."""
    return [found.conditions for found in survey(text, Tables.open(lake.database, None), Limits()).found]


def files(folder: Path) -> dict[str, tuple[float, int]]:
    """Every file in a folder, when it was changed, and its size."""
    return {str(p): (p.stat().st_mtime, p.stat().st_size) for p in folder.rglob("*")}


def rows(answer: Answer) -> list[tuple[Any, ...]]:
    """The rows as tuples."""
    return [tuple(row.values()) for row in answer.to_list()]
