"""The journal of a run: it hears what becomes of each slice, adds up the shards, and tells whoever listens."""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.records import Outcome, SliceRecord
from pipeline.watch.events import READ, Event, Listener, Settled, ShardSettled, SliceSettled, Worked

TOUCHED, ELSEWHERE, UNFINISHED = "touched", "elsewhere", "unfinished"
_WORST_FIRST = (Outcome.FAILED, Outcome.LOST, UNFINISHED, ELSEWHERE)


class Journal:
    """Kept by the driver alone, which hears of everything once: what Ray's workers do twice does not count twice."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)
        self._expected: Counter[str] = Counter()  # slices, by shard
        self._settled: dict[str, list[Settled]] = {}  # shards of which more are to come
        self._read: dict[str, float] = {}  # seconds, by attempt

    def tell(self, event: Event) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.hear(event)

    def expect(self, shards: Iterable[str]) -> None:
        """The run is to settle these; each is named once for each of its slices."""
        self._expected.update(shards)

    def read(self, attempt: str, seconds: float) -> None:
        """A slice was read, to its end or not."""
        self._read[attempt] = seconds
        self.tell(Worked(READ, seconds))

    def settled(
        self,
        record: SliceRecord,
        outcome: str,
        rows: int = 0,
        rejects: Mapping[str, int] | None = None,
        taken_down: int = 0,
    ) -> None:
        """What became of a slice."""
        shard = record.shard
        # The seconds of a record that is whole have those of reading among them; one that failed has none.
        read = self._read.pop(record.attempt, 0.0)
        seconds = read if outcome == TOUCHED else max(read, record.seconds)
        one = SliceSettled(shard, str(outcome), rows, rejects or {}, taken_down, seconds, record.error)
        self.tell(one)
        slices = self._settled.setdefault(shard, [])
        slices.append(one)
        if len(slices) >= self._expected[shard]:
            self.tell(_added_up(shard, self._settled.pop(shard)))

    def close(self) -> None:
        """The run is over; tell of the shards of which it settled only a part."""
        for shard, slices in self._settled.items():
            self.tell(_added_up(shard, [*slices, Settled(shard, UNFINISHED)]))
        self._settled = {}


def _added_up(shard: str, slices: list[Settled]) -> ShardSettled:
    outcomes = {one.outcome for one in slices}
    rejects: Counter[str] = Counter()
    for one in slices:
        rejects.update(one.rejects)
    return ShardSettled(
        shard=shard,
        outcome=next((bad for bad in _WORST_FIRST if bad in outcomes), slices[0].outcome),
        rows=sum(one.rows for one in slices),
        rejects=dict(rejects),
        taken_down=sum(one.taken_down for one in slices),
        seconds=sum(one.seconds for one in slices),
        error=next((one.error for one in slices if one.error), None),
    )
