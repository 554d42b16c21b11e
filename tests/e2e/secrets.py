"""Where a planted secret could show itself: all that a Ray cluster tells over HTTP, and all that it writes to files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

_PAGES = (
    "/api/jobs/",
    "/api/v0/actors?detail=true&limit=1000",
    "/api/v0/tasks?detail=true&limit=1000",
    "/api/v0/workers?detail=true&limit=1000",
    "/api/v0/runtime_envs?detail=true&limit=1000",
    "/api/v0/objects?limit=1000",
    "/api/v0/nodes?detail=true",
    "/nodes?view=summary",
    "/nodes?view=details",
    "/logical/actors",
    "/api/cluster_status",
    "/api/component_activities",
    "/api/cluster_metadata",
    "/events",
)


def told(dashboard: str, jobs: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each page of the dashboard's API that there is, and of each job its details and its log."""
    of_jobs = [f"/api/jobs/{job}{part}" for job in jobs for part in ("", "/logs")]
    for page in (*_PAGES, *of_jobs):
        try:
            with urlopen(dashboard + page, timeout=30) as answer:
                yield page, answer.read()
        except HTTPError:
            continue


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file under Ray's temporary folder: logs, runtime environments, the package of the repository."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()
