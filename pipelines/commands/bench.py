"""Time a shape on random weights, per pass and block: against baselines and the machine itself."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from infra.errors import ConfigError
from infra.terminal.command_line import Invocation, command
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.machine.device import DeviceName, DtypeName, chosen_device
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.model.model_bench import BASELINES, Baseline, BenchOptions, measure_model
from pipelines.benchmarks.model.model_summary import summed_up
from pipelines.benchmarks.model.shape_report import report_shape
from pipelines.benchmarks.stream.decode_bench import bench_decode, decode_settings
from pipelines.benchmarks.stream.stream_bench import bench_stream
from pipelines.benchmarks.tables import decode_table, model_table, shape_table, stream_table

# What is reported, and what runs beside it.
CHOSEN_DTYPES: dict[str, tuple[DtypeName, DtypeName | None]] = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", "float32"),
    "float8": ("float8", "bfloat16"),
    "both": ("float32", "bfloat16"),
}


def register(app: typer.Typer) -> None:
    """Add `omniforcing bench` to `app`."""

    @command(app, "bench")
    def run_bench(
        call: Invocation,
        what: Annotated[
            Literal["model", "stream", "decode"],
            typer.Argument(
                help="The model and its opponents; a stream with codecs; or what the video decoder"
                " loses in a stream, over context and look-ahead."
            ),
        ] = "model",
        seconds: Annotated[int, typer.Option(min=2, help="Length of the stream.")] = 12,
        dtype: Annotated[
            Literal["float32", "bfloat16", "float8", "both"],
            typer.Option(help="All but float32 also run a more exact one, and say the error."),
        ] = "float32",
        device: Annotated[
            DeviceName, typer.Option(help="meta counts operations and memory, and runs nothing.")
        ] = "auto",
        threads: Annotated[
            int | None, typer.Option(min=1, help="Of PyTorch on the CPU; default: its own choice.")
        ] = None,
        baselines: Annotated[
            str, typer.Option(help=f"Any of {', '.join(BASELINES)}; or none.")
        ] = ",".join(BASELINES),
        out: Annotated[
            Path | None,
            typer.Option(help="Keep the result there, with commit, settings and machine."),
        ] = None,
    ) -> None:
        """Time every pass and block of a stream on random weights, and count what they compute."""
        if threads is not None:
            torch.set_num_threads(threads)
        where = chosen_device(device)
        reported, compared = CHOSEN_DTYPES[dtype]
        options = BenchOptions(seconds, where, reported, compared, chosen_baselines(baselines))
        if where.type == "meta":
            values, text = _counted(call, what, options)
        elif what == "stream":
            values, text = _streamed(call, options)
        elif what == "decode":
            values, text = _decoded(call, options)
        else:
            values, text = _modelled(call, options)
        if out is not None:
            settings = {"what": what, "seconds": seconds, "dtype": dtype, "device": str(where)}
            settings |= {"threads": torch.get_num_threads(), "baselines": baselines}
            write_record(out, record_of(call.config, settings, values))
        call.result(values, text)


def chosen_baselines(names: str) -> tuple[Baseline, ...]:
    """The baselines of a comma-separated list; ConfigError for one that there is not."""
    asked = [] if names == "none" else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in BASELINES]
    if unknown:
        raise ConfigError(
            f"expected baselines of {', '.join(BASELINES)}, or none, got {', '.join(unknown)!r};"
            " name them with commas between"
        )
    return tuple(name for name in BASELINES if name in asked)


def _counted(call: Invocation, what: str, options: BenchOptions) -> tuple[dict[str, Any], str]:
    if what != "model":
        raise ConfigError(
            f"expected a device that computes for bench {what}, got meta; take bench model for"
            " counts, or another --device"
        )
    report = report_shape(call.config, options.dtype)
    return report.model_dump(mode="json"), shape_table(report)


def _modelled(call: Invocation, options: BenchOptions) -> tuple[dict[str, Any], str]:
    blocks = BlockLayout(call.config.model.layout).blocks_for_seconds(options.seconds)
    with call.progress.stage("bench model", blocks) as stage:
        measured = measure_model(call.config, options, stage.advance)
    made = summed_up(call.config, options, measured)
    return made.model_dump(mode="json"), model_table(made)


def _streamed(call: Invocation, options: BenchOptions) -> tuple[dict[str, Any], str]:
    blocks = BlockLayout(call.config.model.layout).blocks_for_seconds(options.seconds)
    with call.progress.stage("bench stream", blocks) as stage:
        made = bench_stream(
            call.config, options.seconds, options.device, options.dtype, stage.advance
        )
    return made.model_dump(mode="json"), stream_table(made)


def _decoded(call: Invocation, options: BenchOptions) -> tuple[dict[str, Any], str]:
    with call.progress.stage("bench decode", decode_settings()) as stage:
        made = bench_decode(call.config, options.seconds, options.device, stage.advance)
    return made.model_dump(mode="json"), decode_table(made)
