"""A command as a Ray job, as the schedule runs it: heard line by line, stopped if the wait for it is ended."""

from collections import deque
from collections.abc import Callable, Sequence

from pipeline.submit import submit
from pipeline.ticks.command import KEPT, Ended


class RayJob:
    """A command on the cluster whose dashboard is at an address; this repository goes along."""

    def __init__(self, address: str, command: Sequence[str]) -> None:
        self._job = submit(address, command)

    def follow(self, say: Callable[[str], None]) -> Ended:
        """Wait for its end, also if the head is away for a while."""
        last: deque[str] = deque(maxlen=KEPT)
        rest = ""

        def hear(text: str) -> None:
            nonlocal rest
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                last.append(line)
                say(line)

        hear(f"submitted as {self._job.name}\n")
        try:
            code = self._job.follow(hear)
        except BaseException:
            self._job.stop()
            raise
        hear("\n" if rest else "")
        return Ended(code, tuple(last))

    def stop(self) -> None:
        """Ask the cluster to stop it."""
        self._job.stop()
