"""Check this machine and this installation, and say what to do about what is missing."""

from pathlib import Path
from typing import Annotated

import typer

from actors.streaming.machine_kernels import machine_store, measure_kernels
from infra.terminal.command_line import FAILED, Invocation, command
from pipelines.planning.doctor import Check, doctor

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def register(app: typer.Typer) -> None:
    """Add `omniforcing doctor` to `app`."""

    @command(app, "doctor")
    def run_doctor(
        call: Invocation,
        out: Annotated[
            Path, typer.Option(help="Folder that runs will be written to; its disk is measured.")
        ] = Path("out"),
        measure: Annotated[
            bool,
            typer.Option(
                "--measure",
                help="Compile and measure this CPU's kernels first; streams take them from their"
                " next start on.",
            ),
        ] = False,
    ) -> None:
        """Look at versions, ffmpeg, CPU, memory, disk, GPU, kernels, port and weights."""
        if measure:
            measure_kernels(machine_store(), anew=True)
        checks = doctor(call.config, out)
        failed = sum(check.status == "fail" for check in checks)
        call.result(
            {"ok": failed == 0, "checks": [check._asdict() for check in checks]}, _as_text(checks)
        )
        if failed:
            raise typer.Exit(FAILED)


def _as_text(checks: list[Check]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.status]}  {check.name:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"{'':6}{'':{width}}  -> {check.advice}")
    return "\n".join(lines)
