"""Time a shape on random weights, per pass and block: against baselines and the machine itself."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from actors.streaming.machine_kernels import kernels_name, measure_and_take_kernels
from infra.errors import ConfigError
from infra.processes import own_age_s
from infra.terminal.command_line import FAILED, Invocation, command
from omniforcing_model.kernels.choice import kernels_in_use
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.transformer.float8 import has_float8_products
from pipelines.benchmarks.kernels.kernels_bench import bench_kernels
from pipelines.benchmarks.machine.device import DTYPES, DeviceName, DtypeName, chosen_device
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.model.against import ON_CPU, bench_against
from pipelines.benchmarks.model.model_bench import BASELINES, Baseline, BenchOptions, measure_model
from pipelines.benchmarks.model.model_summary import bench_summary
from pipelines.benchmarks.model.shape_report import report_shape
from pipelines.benchmarks.preprocessing.preprocess_bench import SEQUENCE, bench_preprocess
from pipelines.benchmarks.preprocessing.preprocess_dry_run import dry_run
from pipelines.benchmarks.preprocessing.preprocess_stages import STAGES, bench_stages
from pipelines.benchmarks.stream.decode_bench import bench_decode, decode_settings
from pipelines.benchmarks.stream.graph_bench import bench_graphs, graph_blocks
from pipelines.benchmarks.stream.stream_bench import (
    StreamOptions,
    bench_stream,
    planned_blocks,
)
from pipelines.benchmarks.suite.page import HTML_FILE
from pipelines.benchmarks.suite.steps import Extent, Machine
from pipelines.benchmarks.suite.suite import Suite, prepare, run_suite
from pipelines.benchmarks.tables.engine import (
    against_table,
    decode_table,
    graph_table,
    kernels_table,
    model_table,
    shape_table,
    stream_table,
)
from pipelines.benchmarks.tables.preprocessing import dry_run_table, preprocess_table, stages_table
from pipelines.benchmarks.tables.suite import suite_table
from pipelines.commands.bench_train import add_train

# What is reported, and what runs beside it.
CHOSEN_DTYPES: dict[str, tuple[DtypeName, DtypeName | None]] = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", "float32"),
    "float8": ("float8", "bfloat16"),
    "both": ("float32", "bfloat16"),
}


Seconds = Annotated[int, typer.Option(min=2, help="Length of the stream.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float8", "both"],
    typer.Option(help="All but float32 also run a more exact one, and say the error."),
]
Device = Annotated[DeviceName, typer.Option(help="Where it runs.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of PyTorch on the CPU; default: its own choice.")
]
LimitS = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="So many seconds after the command began, end with the blocks there are, at least 3.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Keep the result there, with commit, settings and machine.")
]


def register(app: typer.Typer) -> None:
    """Add `omniforcing bench` with its own commands to `app`."""
    bench = typer.Typer(help=__doc__)
    _add_model(bench)
    _add_stream(bench)
    _add_decode(bench)
    _add_against(bench)
    _add_kernels(bench)
    _add_graphs(bench)
    add_train(bench)
    _add_preprocess(bench)
    _add_all(bench)
    app.add_typer(bench, name="bench")


def _add_model(bench: typer.Typer) -> None:
    @command(bench, "model")
    def run_model(
        call: Invocation,
        seconds: Seconds = 12,
        dtype: Dtype = "float32",
        device: Annotated[
            DeviceName, typer.Option(help="meta counts operations and memory, and runs nothing.")
        ] = "auto",
        threads: Threads = None,
        baselines: Annotated[
            str, typer.Option(help=f"Any of {', '.join(BASELINES)}; or none.")
        ] = ",".join(BASELINES),
        limit_s: LimitS = None,
        out: Out = None,
    ) -> None:
        """Time every pass and block of a stream, and count what they compute."""
        options = replace(
            _options(seconds, dtype, device, threads, chosen_baselines(baselines)),
            limit_s=_time_left(limit_s),
        )
        values, text = (_shape_result if options.device.type == "meta" else _model_result)(
            call, options
        )
        _write_out(call, out, "model", options, values)
        call.result(values, text)


def _add_stream(bench: typer.Typer) -> None:
    @command(bench, "stream")
    def run_stream(
        call: Invocation,
        seconds: Seconds = 12,
        dtype: Annotated[DtypeName, typer.Option(help="Of the weights.")] = "float32",
        device: Device = "auto",
        threads: Threads = None,
        limit_s: LimitS = None,
        out: Out = None,
    ) -> None:
        """Time the model and the codecs, one after the other, beside the machine's own rates."""
        _computing_device(device, "stream")
        options = replace(_options(seconds, dtype, device, threads), compared=None)
        chosen = StreamOptions(seconds, options.device, options.dtype, _time_left(limit_s))
        with call.progress.stage(
            "bench stream", sum(planned_blocks(call.config, seconds))
        ) as stage:
            result = bench_stream(call.config, chosen, stage.advance)
        values = result.model_dump(mode="json")
        _write_out(call, out, "stream", options, values)
        call.result(values, stream_table(result))


def _add_decode(bench: typer.Typer) -> None:
    @command(bench, "decode")
    def run_decode(
        call: Invocation,
        seconds: Seconds = 12,
        device: Device = "auto",
        threads: Threads = None,
        out: Out = None,
    ) -> None:
        """Measure what the video decoder loses in a stream, over context and look-ahead."""
        _computing_device(device, "decode")
        options = _options(seconds, "float32", device, threads)
        with call.progress.stage("bench decode", decode_settings()) as stage:
            result = bench_decode(call.config, options.seconds, options.device, stage.advance)
        values = result.model_dump(mode="json")
        _write_out(call, out, "decode", options, values)
        call.result(values, decode_table(result))


def _add_against(bench: typer.Typer) -> None:
    @command(bench, "against")
    def run_against(
        call: Invocation,
        checkout: Annotated[
            Path, typer.Argument(help="Another checkout of these sources, older or newer.")
        ],
        seconds: Annotated[
            list[int], typer.Option(min=2, help="Lengths that are reported, of one stream.")
        ] = [10, 30],  # noqa: B006  # Typer reads it, nobody changes it
        threads: Annotated[
            list[int], typer.Option(min=1, help="Of PyTorch, one after the other.")
        ] = [1, 2],  # noqa: B006
        out: Out = None,
    ) -> None:
        """Stream on the CPU from these sources and another checkout's, block by block in turn."""
        blocks = BlockLayout(call.config.model.layout).blocks_for_seconds(max(seconds))
        with call.progress.stage("bench against", blocks * len(ON_CPU) * len(threads)) as stage:
            result = bench_against(call.config, checkout, seconds, threads, stage.advance)
        values = result.model_dump(mode="json")
        _keep(call, out, "against", values, {"seconds": seconds, "threads": threads})
        call.result(values, against_table(result))


def _add_kernels(bench: typer.Typer) -> None:
    @command(bench, "kernels")
    def run_kernels(
        call: Invocation,
        dtype: Annotated[
            Literal["float32", "bfloat16"], typer.Option(help="Of the weights and activations.")
        ] = "bfloat16",
        device: Annotated[
            Literal["meta", "cuda"],
            typer.Option(help="meta runs nothing; cuda also profiles a block there, and compares."),
        ] = "meta",
        out: Out = None,
    ) -> None:
        """Count what a steady block launches on a GPU: kernels, calls, waits and bytes."""
        result = bench_kernels(call.config, dtype, chosen_device(device))
        values = result.model_dump(mode="json")
        _keep(call, out, "kernels", values, {"dtype": dtype, "device": device})
        call.result(values, kernels_table(result))


def _add_graphs(bench: typer.Typer) -> None:
    @command(bench, "graphs")
    def run_graphs(
        call: Invocation,
        dtype: Annotated[DtypeName, typer.Option(help="Of the weights.")] = "bfloat16",
        device: Device = "auto",
        limit_s: LimitS = None,
        out: Out = None,
    ) -> None:
        """Stream as graphs and pass by pass: whether both compute the same, and how fast."""
        chosen = _computing_device(device, "graphs")
        with call.progress.stage("bench graphs", graph_blocks(call.config)) as stage:
            result = bench_graphs(call.config, chosen, dtype, _time_left(limit_s), stage.advance)
        values = result.model_dump(mode="json")
        _keep(call, out, "graphs", values, {"dtype": dtype, "device": str(chosen)})
        call.result(values, graph_table(result))


def _add_preprocess(bench: typer.Typer) -> None:
    @command(bench, "preprocess")
    def run_preprocess(
        call: Invocation,
        clips: Annotated[int, typer.Option(min=20, help="In the corpus that is made.")] = 100,
        repetitions: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = 3,
        rows: Annotated[
            int | None,
            typer.Option(min=1, help="Instead: plan and commit so many rows without media."),
        ] = None,
        stages: Annotated[
            bool, typer.Option("--stages", help="Instead: each stage alone, beside the plan.")
        ] = False,
        out: Out = None,
    ) -> None:
        """Compare preprocessing with a plain loop, on one core and two; memory by rows."""
        if rows is not None and stages:
            raise ConfigError("expected --rows or --stages, got both; run one after the other")
        values, text = _preprocess_result(call, clips, repetitions, rows, stages)
        _keep(call, out, "preprocess", values, {"clips": clips, "rows": rows, "stages": stages})
        call.result(values, text)


def _add_all(bench: typer.Typer) -> None:
    @command(bench, "all")
    def run_all(
        call: Invocation,
        out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")],
        seconds: Seconds = 30,
        device: Device = "auto",
        limit_s: Annotated[float, typer.Option(min=1, help="Of all steps together.")] = 360,
    ) -> None:
        """Run every benchmark of the engine, each within its time, and write a page."""
        chosen = _computing_device(device, "all")
        has_gpu = chosen.type == "cuda"
        machine = Machine(has_gpu, has_gpu and has_float8_products(chosen))
        suite = Suite(out, call.config, machine, Extent(seconds, limit_s))
        steps = prepare(suite)
        # Else the first step on a CPU would wait for it, within its own time.
        measure_and_take_kernels(call.config.sampling.student_kernels, chosen.type)
        with call.progress.stage("bench all", len(steps)) as stage:
            record = run_suite(suite, steps, lambda name: stage.advance(step=name))
        call.result(record.model_dump(mode="json"), suite_table(record, out / HTML_FILE))
        if any(step.outcome in ("failed", "stopped") for step in record.steps.values()):
            raise typer.Exit(FAILED)


def chosen_baselines(names: str) -> tuple[Baseline, ...]:
    """The baselines of a comma-separated list; ConfigError for one that there is not."""
    chosen = [] if names == "none" else [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in BASELINES]
    if unknown:
        raise ConfigError(
            f"expected baselines of {', '.join(BASELINES)}, or none, got {', '.join(unknown)!r};"
            " name them with commas between"
        )
    return tuple(name for name in BASELINES if name in chosen)


def _options(
    seconds: int,
    dtype: str,
    device: DeviceName,
    threads: int | None,
    baselines: tuple[Baseline, ...] = (),
) -> BenchOptions:
    if threads is not None:
        torch.set_num_threads(threads)
    reported, compared = CHOSEN_DTYPES[dtype]
    return BenchOptions(seconds, chosen_device(device), reported, compared, baselines)


def _time_left(limit_s: float | None) -> float | None:
    """Of that time since the command began: loading libraries is part of it."""
    return None if limit_s is None else max(0.0, limit_s - own_age_s())


def _computing_device(device: DeviceName, what: str) -> torch.device:
    chosen = chosen_device(device)
    if chosen.type == "meta":
        raise ConfigError(
            f"expected a device that computes for bench {what}, got meta; take bench model for"
            " counts, or another --device"
        )
    return chosen


def _write_out(
    call: Invocation, out: Path | None, what: str, options: BenchOptions, values: dict[str, Any]
) -> None:
    kernels = kernels_in_use() if options.device.type == "cpu" else None
    settings = {
        "seconds": options.seconds,
        "dtype": options.dtype,
        "compared": options.compared,
        "device": str(options.device),
        "threads": torch.get_num_threads(),
        "kernels": kernels_name(kernels, DTYPES[options.dtype]),
        "baselines": list(options.baselines),
    }
    _keep(call, out, what, values, settings)


def _keep(
    call: Invocation,
    out: Path | None,
    what: str,
    values: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Write the result with its settings, where that is asked for."""
    if out is not None:
        write_record(out, record_of(call.config, {"what": what, **settings}, values))


def _shape_result(call: Invocation, options: BenchOptions) -> tuple[dict[str, Any], str]:
    report = report_shape(call.config, options.dtype)
    return report.model_dump(mode="json"), shape_table(report)


def _model_result(call: Invocation, options: BenchOptions) -> tuple[dict[str, Any], str]:
    blocks = BlockLayout(call.config.model.layout).blocks_for_seconds(options.seconds)
    with call.progress.stage("bench model", blocks) as stage:
        measured = measure_model(call.config, options, stage.advance)
    result = bench_summary(call.config, options, measured)
    return result.model_dump(mode="json"), model_table(result)


def _preprocess_result(
    call: Invocation, clips: int, repetitions: int, rows: int | None, stages: bool
) -> tuple[dict[str, Any], str]:
    if rows is not None:
        with call.progress.stage("dry run", None) as stage:
            planned = dry_run(call.config, rows, stage.advance)
        return planned.model_dump(mode="json"), dry_run_table(planned)
    if stages:
        with call.progress.stage("bench stages", STAGES) as stage:
            timed = bench_stages(call.config, repetitions, stage.advance)
        return timed.model_dump(mode="json"), stages_table(timed)
    with call.progress.stage("bench preprocess", len(SEQUENCE) * repetitions) as stage:
        result = bench_preprocess(call.config, clips, repetitions, stage.advance)
    return result.model_dump(mode="json"), preprocess_table(result)
