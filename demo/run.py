"""`make demo`: pack shards, run the main job on them as anyone would, search in plain words, write a page.

What is there already is not made again: a second `make demo` packs nothing and embeds nothing.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bridgelake import Lake
from bridgelake.lake import SearchOptions
from demo.pack import PAIRS_PER_IMAGE, TARS, pack, scene_of
from demo.scenes import Claim, Thing, is_true
from pipeline.errors import BridgelakeError
from pipeline.retrieval.display import show_hits
from pipeline.retrieval.hits import Hits
from pipeline.retrieval.panels import panel
from pipeline.retrieval.sheet import write_sheet

ROOT = Path(__file__).resolve().parent.parent
SHARDS, OUT = Path("demo/shards"), Path("demo/out")  # relative to ROOT, as a person would type them
LAKE, PAGE, SHEET = OUT / "lake", OUT / "index.html", OUT / "sheet.png"
PAIRS, SEED = 3000, 0
EACH = round(PAIRS / (TARS * PAIRS_PER_IMAGE + 1))  # pictures in a shard


@dataclass(frozen=True)
class Search:
    """What is asked, and the same as the drawer would say it, who knows the answer."""

    words: str
    claim: Claim
    options: SearchOptions


SEARCHES = (
    Search("a small red ring", Claim(Thing("red", "ring", "small")), {}),
    Search(
        "a red heart to the left of a white diamond",
        Claim(Thing("red", "heart"), "left of", Thing("white", "diamond")),
        {"rerank": "itm"},
    ),
    Search(
        "a yellow star",
        Claim(Thing("yellow", "star")),
        {"where": "background = 'stripes' AND distance > 0.4", "rerank": "itm"},
    ),
)


def main() -> int:
    """Run the demo; 1 if the job could not be done."""
    os.chdir(ROOT)
    pack_once()
    if code := embed():
        print("the demo's job was not done; to begin anew, remove demo/out and demo/shards", file=sys.stderr)
        return code
    lake = Lake(str(LAKE))
    panels = []
    for search in SEARCHES:
        options: SearchOptions = {"limit": 5, **search.options}
        hits = lake.search(search.words, **options)
        note = verdict(hits, search.claim)
        print()
        show_hits(hits)
        print(note, flush=True)
        panels.append(panel(hits, note))
    write_sheet(panels, PAGE, SHEET, "bridgelake demo")
    print(farewell())
    return 0


def pack_once() -> None:
    """Draw and pack the shards, unless they are there."""
    if SHARDS.is_dir():
        return
    print("drawing the demo's pictures and packing them into shards ...", flush=True)
    part = OUT / "shards.part"
    for stale in (part, LAKE):  # a table of other shards would say that they have changed
        shutil.rmtree(stale, ignore_errors=True)
    packed = pack(part, PAIRS, SEED)
    part.rename(SHARDS)
    packed.folder = SHARDS
    print(packed.summary(), flush=True)


def embed() -> int:
    """The main job, typed as anyone would."""
    command = ["jobs/embed_laion.py", "--input", str(SHARDS), "--db", str(LAKE), "--keep", "background,distance"]
    print(f"\n$ {python()} {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, *command], check=False).returncode


def verdict(hits: Hits, claim: Claim) -> str:
    """What the drawer says of the hits."""
    scenes = [scene_of(SEED, index) for index in range(EACH * (TARS + 1))]
    # A key is the number of the shard, five digits, and of the picture in it.
    found = [scenes[int(row["key"][:5]) * EACH + int(row["key"][5:])] for row in hits.to_list()]
    right, all_ = (sum(is_true(claim, scene) for scene in some) for some in (found, scenes))
    return f"{right} of {len(found)} are right, says the drawer, who drew {all_} such scenes among {len(scenes)}"


def python() -> str:
    """The interpreter, as a person would type it here."""
    return str(Path(".venv/bin/python")) if Path(".venv/bin/python").exists() else "python"


def farewell() -> str:
    """Where things are, and what to type next."""
    return f"""
{PAGE}  the pictures found: open it in a browser
{SHEET}    the same as one picture
{LAKE}        the LanceDB table, with the rejects, the ledger and the runs beside it

Ask something yourself, then embed your own shards:
$ {python()} jobs/query.py "a large blue star below a small yellow circle" --db {LAKE} --rerank itm --html hits.html
$ {python()} jobs/embed_laion.py --input YOUR_SHARDS --db YOUR_LAKE"""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BridgelakeError as error:
        sys.exit(f"error: {error}")
