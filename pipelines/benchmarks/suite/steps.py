"""What a run of all benchmarks consists of, and how long each part may take."""

from pathlib import Path
from typing import NamedTuple

from infra.config import RunConfig

# Enough to measure, few enough that two engines fit beside each other and a step ends in time.
SLICE_LAYERS = 12
# Where passes are only shown to be graphs.
COMPILED_LAYERS = 2
MODEL_SECONDS = 10  # at most: a static cache grows with the clip
COUNTED_PRESET = "paper"
NEEDS_GPU = "needs a GPU"


class Machine(NamedTuple):
    """What decides which parts can run: a GPU, and whether it multiplies in float8, with torchao
    installed."""

    has_gpu: bool
    has_float8: bool


class Step(NamedTuple):
    """One command of `omniforcing`, in a process of its own.

    `words`: the command and its options. `limit_s`: what it may take if everything before it took
    its whole time. `takes_limit`: it can end early with what it has. `left_out`: why it does not
    run here, if it does not.
    """

    name: str
    title: str
    words: tuple[str, ...]
    limit_s: float
    takes_limit: bool = False
    left_out: str = ""


class Extent(NamedTuple):
    """How much is done: the length of streams, and the time of all steps together, in seconds."""

    stream_s: int
    limit_s: float


def planned_steps(config: RunConfig, file: Path, machine: Machine, extent: Extent) -> list[Step]:
    """The steps, first the ones that matter most, with the time shared out among them.

    Args:
        config: whose shape is measured.
        file: that holds it.
        machine: where it runs.
        extent: how much is done.
    """
    plan = _Plan(config, file, machine, extent)
    shares = [
        (0.8, plan.counts()),
        (2.0, plan.stream("bfloat16")),
        (1.0, plan.graphs()),
        (1.2, plan.model()),
        (0.8, plan.profile()),
        (1.5, plan.stream("float8" if machine.has_gpu else "float32")),
    ]
    whole = sum(share for share, step in shares if not step.left_out)
    return [
        step if step.left_out else step._replace(limit_s=extent.limit_s * share / whole)
        for share, step in shares
    ]


class _Plan:
    """The steps one by one, their time still open."""

    def __init__(self, config: RunConfig, file: Path, machine: Machine, extent: Extent) -> None:
        self._layers, self._machine, self._extent = config.model.layers, machine, extent
        device = "cuda" if machine.has_gpu else "cpu"
        self._common = ("--config", str(file), "--device", device)

    def counts(self) -> Step:
        """What a block launches, counted: no GPU is needed, so it is always of the 19B shape."""
        words = ("bench", "kernels", "--preset", COUNTED_PRESET, "--dtype", "bfloat16")
        return Step("kernels", "Kernels of a block", (*words, "--device", "meta"), 0)

    def profile(self) -> Step:
        """The same of a slice, beside what a profiler sees."""
        words = ("bench", "kernels", *self._slice(), "--dtype", "bfloat16")
        step = Step("profile", f"Kernels in a profile, {self._depth()}", words, 0)
        return step if self._machine.has_gpu else step._replace(left_out=NEEDS_GPU)

    def stream(self, dtype: str) -> Step:
        """Whole streams, with the machine's own rates beside them."""
        seconds = ("--seconds", str(self._extent.stream_s))
        words = ("bench", "stream", *self._common, *seconds, "--dtype", dtype)
        step = Step(f"stream-{dtype}", f"A stream in {dtype}", words, 0, takes_limit=True)
        if dtype == "float8" and not self._machine.has_float8:
            reason = "needs torchao (the extra float8) and a GPU that multiplies in float8"
            return step._replace(left_out=reason)
        return step

    def graphs(self) -> Step:
        """Passes as graphs against passes one by one."""
        most = SLICE_LAYERS if self._machine.has_gpu else COMPILED_LAYERS
        words = ("bench", "graphs", *self._slice(most), "--dtype", "bfloat16")
        return Step("graphs", f"Passes as graphs, {self._depth(most)}", words, 0, takes_limit=True)

    def model(self) -> Step:
        """Beside a static cache: on a GPU in the type that is served, on a CPU in both."""
        seconds = ("--seconds", str(min(MODEL_SECONDS, self._extent.stream_s)))
        dtype = "bfloat16" if self._machine.has_gpu else "both"
        baselines = ("--dtype", dtype, "--baselines", "static,static-packed")
        words = ("bench", "model", *self._slice(), *seconds, *baselines)
        return Step("model", f"Beside a static cache, {self._depth()}", words, 0, takes_limit=True)

    def _slice(self, most: int = SLICE_LAYERS) -> tuple[str, ...]:
        return (*self._common, "--set", f"model.layers={min(most, self._layers)}")

    def _depth(self, most: int = SLICE_LAYERS) -> str:
        return f"{min(most, self._layers)} of {self._layers} layers"
