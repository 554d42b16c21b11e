"""A job with a fake model, as slow as it is told, for tests that stop it: `python -m tests.slow_job --folder F`."""

import time
from dataclasses import dataclass
from pathlib import Path

from jobs.outcome import finish
from tests.broken import Plan, breaking_model, note


@dataclass
class Options:
    """`folder` holds shards/, and will hold lake/ and notes/."""

    folder: Path
    call_seconds: float = 0.0
    commit_seconds: float = 0.0
    """How long each commit takes, before it is made."""
    stall_seconds: float = 900.0


def main(options: Options) -> int:
    from pipeline.committer import Committer
    from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
    from pipeline.run import Run
    from pipeline.watch.progress import observer

    commit, plan = Committer.commit, Plan(options.folder / "notes", seconds=options.call_seconds)

    def slowly(committer: Committer) -> None:
        if committer.due(0):
            note(plan.folder, "commit")
            time.sleep(options.commit_seconds)
        commit(committer)

    Committer.commit = slowly  # type: ignore[method-assign]
    config = RunConfig(
        ReadConfig((str(options.folder / "shards"),)),
        WriteConfig(str(options.folder / "lake"), commit_seconds=0),
        EmbedConfig(batch_size=8),
        FaultConfig(stall_seconds=options.stall_seconds),
    )
    Run(config, breaking_model(plan), observer()).start()
    return 0


if __name__ == "__main__":
    finish(Options, main, "A slow job.")
