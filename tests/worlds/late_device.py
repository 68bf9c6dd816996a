"""A GPU as unkind as CUDA allows: the model's work is done at once, all other only when waited for.

What relies on an order that no event makes sees other values, or fails here by name.
"""

import time
from contextlib import contextmanager

import torch

GARBAGE = 77


class LateStream:
    """Work in its order; `seen` is how far it knows the model to be."""

    def __init__(self, device):
        self._device = device
        self._queued = []
        self._done = 0
        self.seen = 0

    def wait_event(self, event):
        assert self is not self._device.model, "the model waits for what stands beside it"
        self.seen = max(self.seen, event.position)

    def append(self, work):
        self._queued.append(work)
        return len(self._queued)

    def run_until(self, place):
        while self._done < place:
            work, self._queued[self._done] = self._queued[self._done], None
            self._done += 1
            work()


class LateEvent:
    """Behind the first `place` works of a stream."""

    def __init__(self, device, stream):
        self._device = device
        self._stream = stream
        self.position = device.position
        self._place = stream.append(self._take_time)
        self._time = None

    def _take_time(self):
        self._time = time.perf_counter()

    def synchronize(self):
        self._device.waits += 1
        self._stream.run_until(self._place)

    def elapsed_time(self, later):
        self.synchronize()
        assert later._time is not None, "an event is read before it is over"
        return 1000 * (later._time - self._time)


class LateDevice:
    """In the place of CudaCalls.

    `position` counts the model's passes, for the test to raise; `waits` how often the host waited.
    """

    def __init__(self):
        self.model = LateStream(self)
        self.position = 0
        self.waits = 0
        self._running = None
        self._lent = []

    def new_stream(self):
        return LateStream(self)

    def model_stream(self):
        return self.model

    def event_on(self, stream):
        event = LateEvent(self, stream)
        if stream is self.model:
            stream.run_until(event._place)
        return event

    def launch(self, stream, work):
        assert stream.seen >= self.position, "decoding does not wait for its latents"
        inference = torch.is_inference_mode_enabled()

        def run():
            with torch.inference_mode(inference), self._running_on(stream):
                work()

        stream.append(run)

    def lend(self, values, stream):
        self._lent.append(values)

    def is_lent(self, values):
        return any(values is lent for lent in self._lent)

    def host_buffer(self, like):
        return torch.full(like.shape, GARBAGE, dtype=like.dtype)

    def copy(self, buffer, values):
        assert self._running is not None, "a copy is queued on the model's stream"
        buffer.copy_(values)

    @contextmanager
    def _running_on(self, stream):
        self._running = stream
        try:
            yield
        finally:
            self._running = None
