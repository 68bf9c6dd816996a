"""Show what a run would do and need, before anything is started."""

import io
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from infra.errors import ConfigError
from infra.terminal.command_line import Invocation, command
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
MEMORY_COLUMNS = ("parameters", "gradients", "optimiser", "ema", "frozen", "total")


def register(app: typer.Typer) -> None:
    """Add `omniforcing plan` to `app`."""

    @command(app, "plan")
    def show_plan(
        call: Invocation,
        job: Annotated[
            str | None, typer.Argument(help=f"One of {', '.join(JOBS)}; without it, all of them.")
        ] = None,
    ) -> None:
        """Print the resolved configuration, the stages with their claims, and a memory plan."""
        jobs = JOBS if job is None else tuple(name for name in JOBS if name == job)
        if not jobs:
            raise ConfigError(
                f"expected one of {', '.join(JOBS)}, got {job!r}; leave it out for all"
            )
        planned = plan(call.config, jobs)
        call.result(planned, _as_text(planned))


def _as_text(planned: dict[str, Any]) -> str:
    screen = Console(file=io.StringIO(), width=TEXT_WIDTH, record=True)
    for job, stages in planned["jobs"].items():
        table = Table(*STAGE_COLUMNS, title=job)
        for stage in stages:
            table.add_row(*(str(stage.get(column, "")) for column in STAGE_COLUMNS))
        screen.print(table)
    if "preprocess_costs" in planned:
        _print_costs(screen, planned["preprocess_costs"])
    memory = planned["memory"]
    parts = ", ".join(f"{name} {count:,}" for name, count in memory["parameters"].items())
    screen.print(f"parameters: {parts}")
    screen.print(f"rolling caches of one stream: {memory['kv_cache_mb_per_stream']} MB")
    ranks = Table("stage", title="memory per rank in MB, without activations")
    for column in MEMORY_COLUMNS:
        ranks.add_column(column, justify="right")
    for stage, rank in memory["per_rank"].items():
        ranks.add_row(stage, *(str(rank[f"{column}_mb"]) for column in MEMORY_COLUMNS))
    screen.print(ranks)
    resolved = yaml.safe_dump(planned["config"], sort_keys=False)
    return f"{screen.export_text()}\nresolved configuration:\n\n{resolved}"


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
