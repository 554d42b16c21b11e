"""To the GPU and back while it computes: pictures from pinned buffers, on a stream of their own; and the results."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from model.batching import Indexes
from model.prepare import Pixels

AHEAD = 2  # parts that are copied while one is computed on

Part = tuple[Pixels, Indexes]  # which of the pictures
Results = tuple[list[Tensor], float]  # on the host, and the seconds that the device took


class Copy(NamedTuple):
    """A part under way; `done` says when it is there, None that it is."""

    there: Tensor
    done: torch.cuda.Event | None


class Copier(Protocol):
    """Starts copies, and makes the computation wait for one."""

    def start(self, part: Part) -> Copy:
        """Begin to copy."""
        ...

    def wait(self, copy: Copy) -> Tensor:
        """The part; what is computed on it from now on comes after its copy."""
        ...

    def back(self) -> Callable[[Sequence[Tensor]], Callable[[], Results]]:
        """Called before something is computed: what is then to be given its results, to send them to the host.

        That does not wait; what it returns does, when it is called.
        """
        ...


def ahead(parts: Iterable[Part], copier: Copier) -> Iterator[Tensor]:
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
    """For the CPU: the pictures are there already."""

    def start(self, part: Part) -> Copy:
        """The same bytes where it is all of them, in order."""
        pixels, chosen = part
        whole = np.array_equal(chosen, np.arange(len(pixels)))
        return Copy(torch.from_numpy(pixels if whole else pixels[chosen]), None)

    def wait(self, copy: Copy) -> Tensor:
        """Nothing to wait for."""
        return copy.there

    def back(self) -> Callable[[Sequence[Tensor]], Callable[[], Results]]:
        """By the host's clock; what was computed is there."""
        began = time.perf_counter()

        def send(tensors: Sequence[Tensor]) -> Callable[[], Results]:
            seconds = time.perf_counter() - began
            return lambda: (list(tensors), seconds)

        return send


class Pinned:
    """For a GPU: one buffer for each copy under way, used again when its copy is done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor | None] = [None] * (AHEAD + 1)
        self._done = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._turn = 0

    def start(self, part: Part) -> Copy:
        """Copy into the next pinned buffer, and from there without waiting."""
        pixels, chosen = part
        self._turn = (self._turn + 1) % len(self._buffers)
        done = self._done[self._turn]
        done.synchronize()  # of the copy that used this buffer before
        shape = (len(chosen), *pixels.shape[1:])
        staged = self._buffer(int(np.prod(shape))).view(shape)
        np.take(pixels, chosen, axis=0, out=staged.numpy(), mode="clip")  # in another mode numpy copies once more
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

    def back(self) -> Callable[[Sequence[Tensor]], Callable[[], Results]]:
        """By the GPU's clock; on the stream that computes, so after what is computed and before what comes next."""
        began, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record(torch.cuda.current_stream(self._device))

        def send(tensors: Sequence[Tensor]) -> Callable[[], Results]:
            here = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
            done.record(torch.cuda.current_stream(self._device))

            def wait() -> Results:
                done.synchronize()
                return here, began.elapsed_time(done) / 1e3

            return wait

        return send

    def _buffer(self, size: int) -> Tensor:
        buffer = self._buffers[self._turn]
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return buffer[:size]
