"""The table of `bench train` shows its record's figures."""

import pytest

from pipelines.benchmarks.tables.training import train_table
from pipelines.benchmarks.training.train_bench import (
    PhaseFigures,
    StageFigures,
    TrainBench,
    TurnFigures,
)


def bench_of(device, measured):
    """A stage with figures that are nowhere else."""
    of_step = {"measured_gib": 41.37, "seconds": 0.219} if measured else {}
    of_turn = {"seconds": 0.417, "utilisation": 0.386} if measured else {}
    stage = StageFigures(
        precision="bfloat16",
        zero_stage=3,
        recomputes=True,
        micro_batch=7,
        phases={"scores": PhaseFigures(planned_gib=45.25, **of_step)},
        turns={"critic": TurnFigures(operations=93.4e12, planned_s=0.236, **of_turn)},
        planned_peak_gib=48.18,
        planned_step_s=0.512,
        **({"peak_gib": 44.91, "step_s": 0.603} if measured else {}),
    )
    return TrainBench(
        config="paper",
        device=device,
        measured=measured,
        layers=2,
        all_layers=48,
        seconds=5,
        height=512,
        width=768,
        steps=4 if measured else 0,
        gemm_flops={"bfloat16": 712.5e12} if measured else {},
        stages={"stage_3": stage},
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_measured_stands_beside_the_plan(device):
    shown = train_table(bench_of(device, measured=True))
    for words in ("2 of 48 layers", "768 x 512, 5 s", "ZeRO 3", "layers run again", "7 clips"):
        assert words in shown
    for figure in ("45.25", "48.18", "93.400", "0.236", "0.512"):
        assert figure in shown
    for figure in ("41.37", "44.91", "0.219", "0.417", "0.603", "39%", "712.50"):
        assert figure in shown
    assert "nothing was measured" not in shown


def test_without_a_device_it_says_so_and_shows_the_plan():
    shown = train_table(bench_of("meta", measured=False))
    assert "nothing was measured" in shown
    for figure in ("45.25", "48.18", "93.400", "0.236", "0.512"):
        assert figure in shown
    assert "0%" not in shown
