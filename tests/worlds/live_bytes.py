"""What a process holds of PyTorch's memory, from what its allocator says at each allocation."""

from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile


class LiveBytes:
    """`peak`: most bytes that were there at once, of those that came within `counted`."""

    def __init__(self):
        self.peak = 0


@contextmanager
def counted():
    """Count every allocation of PyTorch on the CPU within it, freed ones off."""
    live = LiveBytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        yield live
    total = 0
    events = profiled.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    for _, change in sorted(changes, key=lambda each: each[0]):
        total += change
        live.peak = max(live.peak, total)
