"""The table of `omniforcing bench train`."""

from rich.table import Table

from pipelines.benchmarks.tables.screen import page_of, table_of
from pipelines.benchmarks.training.train_bench import StageFigures, TrainBench

MEMORY_OF = {
    "cuda": "memory is the GPU's allocator's",
    "cpu": "memory is that of tensors, counted in the first step, which is not timed",
}


def train_table(bench: TrainBench) -> str:
    """Memory by phase beside the plan, time and use of the device, stage by stage."""
    clips = f"{bench.width} x {bench.height}, {bench.seconds} s"
    what = (
        f"{bench.config}, {bench.layers} of {bench.all_layers} layers, {clips}, one rank of"
        f" training, random weights, on {bench.device}"
    )
    if not bench.measured:
        how = "nothing was measured: no step ran, all figures are the plan's"
    else:
        rates = ", ".join(f"{rate / 1e12:,.2f} ({name})" for name, rate in bench.gemm_flops.items())
        how = (
            f"mean of {bench.steps} steps; {MEMORY_OF[bench.device]}; a large product reaches"
            f" {rates} TFLOP/s"
        )
    tables = [table for name, stage in bench.stages.items() for table in _stage(name, stage)]
    return page_of(f"{what}\n{how}", *tables)


def _stage(name: str, stage: StageFigures) -> tuple[Table, Table]:
    again = "layers run again" if stage.recomputes else "activations kept"
    settings = f"{name}: {stage.precision}, ZeRO {stage.zero_stage}, {again}"
    phases = [
        (phase, _cell(of.planned_gib), _cell(of.measured_gib), _cell(of.seconds, 3))
        for phase, of in stage.phases.items()
    ]
    peak = ("all", _cell(stage.planned_peak_gib), _cell(stage.peak_gib), "")
    turns = [
        (
            f"turn of {role}",
            _cell(of.operations / 1e12, 3),
            _cell(of.planned_s, 3),
            _cell(of.seconds, 3),
            "-" if of.utilisation is None else f"{of.utilisation:.0%}",
        )
        for role, of in stage.turns.items()
    ]
    step = ("step, on average", "", _cell(stage.planned_step_s, 3), _cell(stage.step_s, 3), "")
    return (
        table_of((settings, "plan, GiB", "measured, GiB", "seconds"), [*phases, peak]),
        table_of(
            (
                f"{name}, {stage.micro_batch} clips a step",
                "TFLOP",
                "plan, s",
                "measured, s",
                "of a product's rate",
            ),
            [*turns, step],
        ),
    )


def _cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
