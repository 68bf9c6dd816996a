"""Where a block is decoded: on a GPU beside the model's next work, on a CPU at once.

A GPU works through what is queued, and the host is ahead of it. Decoding gets a CUDA stream of its
own: it waits for the latents and for nothing else, its results go to pinned memory of the host, and
an event behind the copies says when they are there. The model's stream waits for none of this.

On a CPU the model takes every core while it runs, so that decoding beside it only takes turns with
it: there it is done before `submit` returns.
"""

import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from omniforcing_model.per_stream import PerStream

T = TypeVar("T")
Result_co = TypeVar("Result_co", covariant=True)
Latents = PerStream[Tensor]
# What is queued here is wanted before what the model is at by then.
URGENT = -1


class Decoding(Protocol[Result_co]):
    """A block that is being decoded; `done` is the moment behind it."""

    done: Any

    def result(self) -> Result_co:
        """What `work` returned, with every copy of `to_host` done; waits for that."""
        ...


class DecodeQueue(Protocol):
    """Takes blocks from the model to the host, in the order in which they are submitted."""

    def moment(self) -> Any:
        """After all that the model has queued so far, for `seconds_between`."""
        ...

    def seconds_between(self, first: Any, second: Any) -> float:
        """Seconds of the device between two moments that are over."""
        ...

    def submit(self, work: Callable[[Latents], T], latents: Latents) -> Decoding[T]:
        """Queue `work` on the latents as they are now, behind what computes them.

        It gets copies: the model may write over its own as soon as this returns. `work` must not
        wait for the device: what it gives to the host goes through `to_host`.
        """
        ...

    def to_host(self, values: Tensor) -> Tensor:
        """Queue a copy in the host's memory, for `work`; it is whole when the result is there."""
        ...


class _Done(Generic[T]):
    def __init__(self, value: T, done: float) -> None:
        self.done = done
        self._value = value

    def result(self) -> T:
        return self._value


class CpuDecodeQueue:
    """Decodes at once."""

    def moment(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds_between(self, first: float, second: float) -> float:
        """Seconds between two moments."""
        return second - first

    def submit(self, work: Callable[[Latents], T], latents: Latents) -> Decoding[T]:
        """Do the work."""
        value = work(latents.map(torch.clone))
        return _Done(value, self.moment())

    def to_host(self, values: Tensor) -> Tensor:
        """The values, which are there already."""
        return values


class CudaCalls:
    """What is asked of CUDA, call by call; a test puts a device in its place that is late."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def new_stream(self) -> Any:
        """A stream whose work goes before the model's."""
        return torch.cuda.Stream(self._device, priority=URGENT)

    def model_stream(self) -> Any:
        """The stream that the model queues on."""
        return torch.cuda.current_stream(self._device)

    def event_on(self, stream: Any) -> Any:
        """A new event behind what the stream has queued."""
        # A host that waits for it sleeps, and leaves the core to those who queue.
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(stream)
        return event

    def launch(self, stream: Any, work: Callable[[], None]) -> None:
        """Call `work` so that it queues on `stream`."""
        with torch.cuda.stream(stream):
            work()

    def lend(self, values: Tensor, stream: Any) -> None:
        """Keep the memory of `values` until `stream` is past what it has queued with them."""
        values.record_stream(stream)

    def host_buffer(self, like: Tensor) -> Tensor:
        """Pinned memory; what a copy on its way still writes is not given out again."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def copy(self, buffer: Tensor, values: Tensor) -> None:
        """Queue a copy to the host where the caller's work is queued."""
        buffer.copy_(values, non_blocking=True)


class _Queued(Generic[T]):
    value: T
    done: Any

    def result(self) -> T:
        self.done.synchronize()
        return self.value


class CudaDecodeQueue:
    """Decodes on a CUDA stream of its own."""

    def __init__(self, calls: CudaCalls) -> None:
        self._calls = calls
        self._stream = calls.new_stream()

    def moment(self) -> Any:
        """An event on the model's stream."""
        return self._calls.event_on(self._calls.model_stream())

    def seconds_between(self, first: Any, second: Any) -> float:
        """Seconds between two events; waits for the second."""
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000

    def submit(self, work: Callable[[Latents], T], latents: Latents) -> Decoding[T]:
        """Queue the work on the own stream."""
        own = latents.map(torch.clone)
        self._stream.wait_event(self.moment())
        for _, values in own.present():
            self._calls.lend(values, self._stream)
        decoding: _Queued[T] = _Queued()

        def queue() -> None:
            decoding.value = work(own)

        self._calls.launch(self._stream, queue)
        decoding.done = self._calls.event_on(self._stream)
        return decoding

    def to_host(self, values: Tensor) -> Tensor:
        """A copy in pinned memory."""
        buffer = self._calls.host_buffer(values)
        self._calls.copy(buffer, values)
        return buffer


def decode_queue(device: torch.device) -> DecodeQueue:
    """The queue of a device."""
    if device.type == "cuda":
        return CudaDecodeQueue(CudaCalls(device))
    return CpuDecodeQueue()
