"""`omniforcing bench train`: a step of every stage beside the plan."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command
from pipelines.benchmarks.machine.device import DeviceName, chosen_device
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.tables.training import train_table
from pipelines.benchmarks.training.train_bench import bench_train, timed_steps

WITHOUT_A_GPU: DeviceName = "meta"


def add_train(bench: typer.Typer) -> None:
    """Add it to the commands of `omniforcing bench`."""

    @command(bench, "train")
    def run_train(
        call: Invocation,
        layers: Annotated[int, typer.Option(min=1, help="Of the model; as wide as it is.")] = 2,
        device: Annotated[
            DeviceName,
            typer.Option(help="meta gives the plan's figures alone; auto is that without a GPU."),
        ] = "auto",
        saves: Annotated[
            bool,
            typer.Option("--saves/--no-saves", help="Also write a checkpoint and the model."),
        ] = True,
        out: Annotated[
            Path | None,
            typer.Option(help="Keep the result there, with commit, settings and machine."),
        ] = None,
    ) -> None:
        """Train every stage on one rank for some steps: memory by phase, time, use of the GPU."""
        chosen = chosen_device(device)
        if device == "auto" and chosen.type == "cpu":
            chosen = chosen_device(WITHOUT_A_GPU)
        each = 1 if chosen.type == "meta" else 1 + timed_steps(call.config)
        with call.progress.stage("bench train", each * len(call.config.stages.with_steps)) as stage:
            result = bench_train(call.config, chosen, layers, saves, stage.advance)
        values = result.model_dump(mode="json")
        if out is not None:
            settings = {"what": "train", "layers": result.layers, "device": str(chosen)}
            write_record(out, record_of(call.config, settings, values))
        call.result(values, train_table(result))
