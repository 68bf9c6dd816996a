"""Render clips of the beacon world: MP4 files with captions, to try everything on."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command
from pipelines.demo.render_clips import render_clips


def register(app: typer.Typer) -> None:
    """Add `omniforcing render` to `app`."""

    @command(app, "render")
    def run_render(
        call: Invocation,
        out: Annotated[Path, typer.Option(help="Folder that gets the clips and their captions.")],
        clips: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
        seed: Annotated[int, typer.Option(min=0, help="Other clips for another number.")] = 0,
    ) -> None:
        """Render clips of flashing, beeping discs as H.264 and AAC, each with a caption."""
        with call.progress.stage("render", clips) as stage:
            rows = render_clips(out, clips, seed, call.config.data.seconds)
            stage.advance(len(rows))
        call.result({"clips": len(rows), "folder": str(out)}, f"{len(rows)} clips in {out}")
