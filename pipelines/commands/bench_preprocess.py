"""Time preprocessing against a plain loop, or stage by stage, or dry-run a million rows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infra.terminal.command_line import Invocation, command
from pipelines.benchmarks.machine.record import record_of, write_record
from pipelines.benchmarks.preprocessing.preprocess_bench import SEQUENCE, bench_preprocess
from pipelines.benchmarks.preprocessing.preprocess_dry_run import dry_run
from pipelines.benchmarks.preprocessing.preprocess_stages import STAGES, bench_stages
from pipelines.benchmarks.tables import dry_run_table, preprocess_table, stages_table


def register(app: typer.Typer) -> None:
    """Add `omniforcing bench-preprocess` to `app`."""

    @command(app, "bench-preprocess")
    def run_bench(
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
        out: Annotated[
            Path | None,
            typer.Option(help="Keep the result there, with commit, settings and machine."),
        ] = None,
    ) -> None:
        """Rows per second beside a plain loop, on one core and two; memory as the corpus grows."""
        values: dict[str, Any]
        if rows is not None:
            with call.progress.stage("dry run", None) as stage:
                planned = dry_run(call.config, rows, stage.advance)
            values, text = planned.model_dump(mode="json"), dry_run_table(planned)
        elif stages:
            with call.progress.stage("bench stages", STAGES) as stage:
                timed = bench_stages(call.config, repetitions, stage.advance)
            values, text = timed.model_dump(mode="json"), stages_table(timed)
        else:
            with call.progress.stage("bench preprocess", len(SEQUENCE) * repetitions) as stage:
                made = bench_preprocess(call.config, clips, repetitions, stage.advance)
            values, text = made.model_dump(mode="json"), preprocess_table(made)
        if out is not None:
            settings = {"what": "preprocess", "clips": clips, "rows": rows, "stages": stages}
            write_record(out, record_of(call.config, settings, values))
        call.result(values, text)
