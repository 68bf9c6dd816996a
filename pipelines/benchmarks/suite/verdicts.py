"""What is asked of the engine, and which figure answers it.

A bound is of one machine and shape: elsewhere the figure is shown and not judged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipelines.benchmarks.suite.record import SHARE, StepRecord, Verdict

Where = Literal["19B on one GPU", "small on a CPU", "19B, counted"]
GPU: Where = "19B on one GPU"
CPU: Where = "small on a CPU"
ANYWHERE: Where = "19B, counted"
PLACES: dict[tuple[str, bool], Where] = {("paper", True): GPU, ("small", False): CPU}


class _Bound(NamedTuple):
    """`path`: of the figure in the result of `step`."""

    name: str
    unit: str
    step: str
    path: Sequence[str]
    where: Where
    required: float | None
    aimed: float | None
    is_most: bool = False


BOUNDS = (
    _Bound("With codecs, bfloat16", "frames/s", "stream-bfloat16",
           ("frames_per_second_decoded",), GPU, 60, 70),
    _Bound("With codecs, float8", "frames/s", "stream-float8",
           ("frames_per_second_decoded",), GPU, None, 100),
    _Bound("p99 over p50 of a block", "", "stream-bfloat16",
           ("p99_over_p50",), GPU, 1.1, None, True),
    _Bound("First second, warm", "s", "stream-bfloat16",
           ("first_chunk_warm_s", "sum"), GPU, 0.6, 0.4, True),
    _Bound("Graphs against passes one by one, largest difference", "", "graphs",
           ("largest_difference",), GPU, 0, None, True),
    _Bound("Kernels in a profile more than counted", SHARE, "profile",
           ("profile", "difference"), GPU, 0.05, None, True),
    _Bound("Kernels a block, counted", "", "kernels",
           ("kernels_per_block",), ANYWHERE, 12_000, 9_500, True),
    _Bound("Kernels for view and anchor, counted", "", "kernels",
           ("view_and_anchor_kernels",), ANYWHERE, 400, None, True),
    _Bound("Waits of the host in a block, counted", "", "kernels",
           ("host_syncs",), ANYWHERE, 0, None, True),
    _Bound("Static cache as released, float32", "times ours", "model",
           ("static_cache", "ratio"), CPU, None, 2),
    _Bound("Static cache as released, bfloat16", "times ours", "model",
           ("compared", "static_cache", "ratio"), CPU, None, 2),
    _Bound("Share of the large product's rate, float32", SHARE, "model",
           ("achieved_share",), CPU, 0.65, None),
)  # fmt: skip


def verdicts_of(config: str, has_gpu: bool, steps: Mapping[str, StepRecord]) -> tuple[Verdict, ...]:
    """Every figure that is asked for, as far as the steps so far give it."""
    return tuple(_verdict(bound, PLACES.get((config, has_gpu)), steps) for bound in BOUNDS)


def _verdict(bound: _Bound, here: Where | None, steps: Mapping[str, StepRecord]) -> Verdict:
    figure = _figure(bound, steps)
    note = "" if bound.where in (here, ANYWHERE) else f"asked of {bound.where}"
    is_met = None
    if figure is not None and not note:
        limit = bound.aimed if bound.required is None else bound.required
        assert limit is not None
        is_met = abs(figure) <= limit if bound.is_most else figure >= limit
    return Verdict(
        name=bound.name,
        unit=bound.unit,
        figure=figure,
        required=bound.required,
        aimed=bound.aimed,
        is_most=bound.is_most,
        is_met=is_met,
        note=note,
    )


def _figure(bound: _Bound, steps: Mapping[str, StepRecord]) -> float | None:
    step = steps.get(bound.step)
    if step is None or step.record is None:
        return None
    value: Any = step.record.result
    for key in bound.path:
        if not isinstance(value, Mapping) or value.get(key) is None:
            return None
        value = value[key]
    return float(value)
