"""How the pipeline grows: in shards, in rows and in fragments; with a model that costs nothing.

    python -m bench.scale                       # all of it: about half an hour and 8 GB of disk
    python -m bench.scale --rows 50000 --shards 1000 10000 --fragments 1000 10000

Each part runs in a process of its own, whose memory it measures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.hardware import hardware

SHARDS = (1_000, 10_000, 100_000)
ROWS = 1_000_000


def part(name: str, folder: Path) -> Any:
    """What one part found; this runs in its own process."""
    from bench import flow, fragments, many

    what, _, size = name.partition(":")
    if what == "rows":
        return flow.flow(folder, int(size))
    if what == "fragments":
        return fragments.fragments(folder, tuple(map(int, size.split(","))))
    return {"plan": many.planned, "finish": many.finish_all}[what](folder)


def alone(name: str, folder: Path) -> Any:
    """`part` in another process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.scale", "--part", name, "--folder", str(folder)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    found = json.loads(done.stdout.splitlines()[-1])
    tell(name, found)
    return found


def tell(name: str, found: Any) -> None:
    """For a person, at once."""
    print(f"{name}: {json.dumps(found)}", flush=True)


def shards(folder: Path, count: int) -> dict[str, Any]:
    """A first run's plan, all of them committed, and the plan of the run after that."""
    from bench.many import make_shards

    make_shards(folder, count)
    return {name: alone(name, folder) for name in ("plan", "finish")} | {"resume": alone("plan", folder)}


def main() -> None:
    """Measure all parts that are asked for."""
    args = options()
    if args.part:
        print(json.dumps(part(args.part, Path(args.folder))))
        return
    tell("hardware", hardware())
    found: dict[str, Any] = {"hardware": hardware(), "began": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for count in args.shards:
            (where := Path(folder, f"shards-{count}")).mkdir()
            found[f"shards {count}"] = shards(where, count)
        for name in ("rows", "fragments"):
            if size := ",".join(map(str, getattr(args, name))):
                (where := Path(folder, name)).mkdir()
                found[name] = alone(f"{name}:{size}", where)
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1))


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="*", default=SHARDS, help="how many to plan, several times")
    parser.add_argument("--rows", type=int, nargs="*", default=(ROWS,), help="how many to embed")
    parser.add_argument("--fragments", type=int, nargs="*", default=(1_000, 10_000, 20_000, 50_000, 100_000))
    parser.add_argument("--folder", default=None, help="where to put what is made; a temporary folder by default")
    parser.add_argument("--out", default="", help="a JSON file of the figures")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
