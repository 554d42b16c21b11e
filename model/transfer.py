"""Pictures on their way to the GPU: from pinned buffers, on a stream of their own, while it computes on others."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.prepare import Pixels

AHEAD = 2  # parts that are copied while one is computed on


class Copy(NamedTuple):
    """A part under way; `done` says when it is there, None that it is."""

    there: Tensor
    done: torch.cuda.Event | None


class Copier(Protocol):
    """Starts copies, and makes the computation wait for one."""

    def start(self, part: Pixels) -> Copy:
        """Begin to copy."""
        ...

    def wait(self, copy: Copy) -> Tensor:
        """The part; what is computed on it from now on comes after its copy."""
        ...


def ahead(parts: Iterable[Pixels], copier: Copier) -> Iterator[Tensor]:
    """Each part on the device, as the next ones are under way."""
    under_way: deque[Copy] = deque()
    for part in parts:
        under_way.append(copier.start(part))
        if len(under_way) > AHEAD:
            yield copier.wait(under_way.popleft())
    while under_way:
        yield copier.wait(under_way.popleft())


def copier(device: torch.device) -> Copier:
    """What copies to a device."""
    return Pinned(device) if device.type == "cuda" else InPlace()


class InPlace:
    """For the CPU: the picture is there already."""

    def start(self, part: Pixels) -> Copy:
        """The same bytes."""
        return Copy(torch.from_numpy(part), None)

    def wait(self, copy: Copy) -> Tensor:
        """Nothing to wait for."""
        return copy.there


class Pinned:
    """For a GPU: one buffer for each copy under way, used again when its copy is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor | None] = [None] * (AHEAD + 1)
        self._done = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._turn = 0

    def start(self, part: Pixels) -> Copy:
        """Copy into the next pinned buffer, and from there without waiting."""
        self._turn = (self._turn + 1) % len(self._buffers)
        done = self._done[self._turn]
        done.synchronize()  # of the copy that used this buffer before
        staged = self._buffer(part.size).view(part.shape)
        staged.copy_(torch.from_numpy(part))
        with torch.cuda.stream(self._stream):
            there = staged.to(self._device, non_blocking=True)
            done.record(self._stream)
        return Copy(there, done)

    def wait(self, copy: Copy) -> Tensor:
        """The GPU waits for it, the host does not."""
        computing = torch.cuda.current_stream(self._device)
        if copy.done is not None:
            computing.wait_event(copy.done)
        copy.there.record_stream(computing)
        return copy.there

    def _buffer(self, size: int) -> Tensor:
        buffer = self._buffers[self._turn]
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return buffer[:size]
