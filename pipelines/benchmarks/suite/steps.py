"""What a run of all benchmarks consists of, and how long each part may take."""

from pathlib import Path
from typing import NamedTuple

from infra.config import RunConfig

# Enough to measure, few enough that a baseline's second copy fits and a step ends in time.
SLICE_LAYERS = 12
MODEL_SECONDS = 10  # at most: a static cache grows with the clip


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
    device = "cuda" if machine.has_gpu else "cpu"
    common = ("--config", str(file), "--device", device)
    layers = ("--set", f"model.layers={min(SLICE_LAYERS, config.model.layers)}")
    clip_s = min(MODEL_SECONDS, extent.stream_s)
    stream = ("bench", "stream", *common, "--seconds", str(extent.stream_s), "--dtype")
    model = ("bench", "model", *common, *layers, "--seconds", str(clip_s), "--dtype")
    plan = [
        _Share(
            2.0,
            Step("stream-bfloat16", "A stream in bfloat16", (*stream, "bfloat16"), 0, True),
        ),
        _Share(
            2.0,
            Step(
                "model",
                f"{_depth(config)}, beside a static cache",
                (*model, *_types_and_baselines(machine)),
                0,
                True,
            ),
        ),
        _Share(1.5, _last_stream(machine, stream)),
    ]
    whole = sum(share.share for share in plan if not share.step.left_out)
    return [
        share.step
        if share.step.left_out
        else share.step._replace(limit_s=extent.limit_s * share.share / whole)
        for share in plan
    ]


class _Share(NamedTuple):
    """A step and its part of the time, relative to the others'."""

    share: float
    step: Step


def _last_stream(machine: Machine, words: tuple[str, ...]) -> Step:
    if not machine.has_gpu:
        return Step("stream-float32", "A stream in float32", (*words, "float32"), 0, True)
    step = Step("stream-float8", "A stream in float8", (*words, "float8"), 0, True)
    if machine.has_float8:
        return step
    return step._replace(
        left_out="needs torchao (the extra float8) and a GPU that multiplies in float8"
    )


def _depth(config: RunConfig) -> str:
    layers = min(SLICE_LAYERS, config.model.layers)
    return f"{layers} of {config.model.layers} layers"


def _types_and_baselines(machine: Machine) -> tuple[str, ...]:
    """On a GPU the type that is served; on a CPU both, where either may be."""
    if machine.has_gpu:
        return ("bfloat16", "--baselines", "static,static-packed")
    return ("both", "--baselines", "static,static-packed")
