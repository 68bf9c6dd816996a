"""Show what a run would do and need, before anything is started."""

import io
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from infra.errors import ConfigError
from infra.terminal.command_line import FAILED, Invocation, command
from pipelines.planning.plan import JOBS, plan

TEXT_WIDTH = 110
STAGE_COLUMNS = (
    "stage",
    "takes",
    "gives",
    "replicas",
    "cpus",
    "gpus",
    "memory_gib",
    "steps",
    "batch",
)
COST_COLUMNS = ("stage", "unit", "seconds_per_unit", "core_hours", "gpu_hours", "wall_hours")
STATE_COLUMNS = ("weights", "gradients", "masters", "moments", "frozen", "average", "buffers")
HOUR_COLUMNS = (
    "compute_s",
    "wire_s",
    "teacher_s",
    "step_s",
    "hours",
    "gpu_hours",
    "money",
    "checkpoints_gb",
)


def register(app: typer.Typer) -> None:
    """Add `omniforcing plan` to `app`."""

    @command(app, "plan")
    def show_plan(
        call: Invocation,
        job: Annotated[
            str | None, typer.Argument(help=f"One of {', '.join(JOBS)}; without it, all of them.")
        ] = None,
        gpu_gib: Annotated[
            float | None,
            typer.Option(min=0, help="Say whether training fits GPUs of this memory; 1 if not."),
        ] = None,
    ) -> None:
        """Print the resolved configuration, the stages with their claims, sizes and costs."""
        jobs = JOBS if job is None else tuple(name for name in JOBS if name == job)
        if not jobs:
            raise ConfigError(
                f"expected one of {', '.join(JOBS)}, got {job!r}; leave it out for all"
            )
        if gpu_gib is not None and "distill" not in jobs:
            raise ConfigError(f"expected --gpu-gib with training, got it with {job}; plan distill")
        planned = plan(call.config, jobs, gpu_gib)
        call.result(planned, _as_text(planned))
        if planned.get("fits") is False:
            raise typer.Exit(FAILED)


def _as_text(planned: dict[str, Any]) -> str:
    screen = Console(file=io.StringIO(), width=TEXT_WIDTH, record=True)
    for job, stages in planned["jobs"].items():
        table = Table(*STAGE_COLUMNS, title=job)
        for stage in stages:
            table.add_row(*(str(stage.get(column, "")) for column in STAGE_COLUMNS))
        screen.print(table)
    if "preprocess_costs" in planned:
        _print_costs(screen, planned["preprocess_costs"])
    if "memory" in planned:
        _print_sizes(screen, planned["memory"])
    if "stages" in planned:
        _print_training(screen, planned)
    resolved = yaml.safe_dump(planned["config"], sort_keys=False)
    return f"{screen.export_text()}\nresolved configuration:\n\n{resolved}"


def _print_sizes(screen: Console, memory: dict[str, Any]) -> None:
    counts = memory["parameters"]
    parts = ", ".join(f"{name} {counts[name]:,}" for name in ("video", "audio", "total"))
    screen.print(f"parameters: {parts}")
    screen.print(f"rolling caches of one stream: {memory['kv_cache_mb_per_stream']} MB")


def _print_training(screen: Console, planned: dict[str, Any]) -> None:
    state = _table("what stays of the roles, GiB a rank", (*STATE_COLUMNS, "total"))
    costs = _table("steps of training", HOUR_COLUMNS)
    for name, stage in planned["stages"].items():
        held = [stage["state"].get(column, 0) for column in STATE_COLUMNS]
        state.add_row(name, *(f"{gib:,.2f}" for gib in (*held, stage["state_gib"])))
        costs.add_row(name, *(f"{stage['costs'][column]:,.2f}" for column in HOUR_COLUMNS))
    screen.print(state)
    for name, stage in planned["stages"].items():
        if planned["gpu_gib"] is None:
            continue
        _print_verdict(screen, name, stage)
        if "teacher_server" in stage:
            _print_verdict(screen, f"{name}, a teacher server", stage["teacher_server"])
    if planned["trajectories"]:
        _print_trajectories(screen, planned)
    screen.print(costs)
    assumed = ", ".join(f"{name} {value:g}" for name, value in planned["assumptions"].items())
    totals = planned["totals"]
    screen.print(f"in all: {totals['gpu_hours']:,.0f} GPU hours, {totals['money']:,.0f}")
    screen.print(f"assumed: {assumed}; nothing is taken to run beside anything else")


def _print_trajectories(screen: Console, planned: dict[str, Any]) -> None:
    sampled = planned["trajectories"]
    costs = sampled["costs"]
    if planned["gpu_gib"] is not None:
        _print_verdict(screen, "trajectories, a sampler", sampled)
    screen.print(
        f"trajectories: {costs['hours']:,.1f} h, {costs['gpu_hours']:,.0f} GPU hours,"
        f" {costs['money']:,.0f} in all; {costs['gigabytes']:,.1f} GB of states"
    )


def _print_verdict(screen: Console, name: str, stage: dict[str, Any]) -> None:
    phases = ", ".join(f"{phase} {gib:.2f}" for phase, gib in stage["phases"].items())
    screen.print(f"{name}: {'fits' if stage['fits'] else 'does not fit'}, GiB a GPU: {phases}")
    if stage["fits"]:
        return
    knobs = " ".join(f"--set {knob}" for knob in stage["knobs"])
    screen.print(f"  {stage['reason']}")
    screen.print(f"  fits with {knobs}" if knobs else "  nothing that can be set makes it fit")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table("stage", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _print_costs(screen: Console, costs: dict[str, Any]) -> None:
    title = f"preprocessing {costs['clips']:,} clips: {costs['windows']:,.0f} windows"
    table = Table(*COST_COLUMNS, title=title)
    for stage in costs["stages"]:
        figures = (f"{stage[column]:,.2f}" for column in COST_COLUMNS[2:])
        table.add_row(stage["stage"], stage["unit"], *figures)
    screen.print(table)
    screen.print(
        f"{costs['core_hours']:,.0f} core hours, {costs['gpu_hours']:,.0f} GPU hours,"
        f" {costs['money']:,.0f} in all; {costs['gigabytes']:,.0f} GB of shards;"
        f" {costs['wall_hours']:,.1f} h with these replicas, as long as {costs['bottleneck']} takes"
    )
    assumptions = ", ".join(f"{name} {value:g}" for name, value in costs["assumptions"].items())
    screen.print(f"assumed: {assumptions}")
