"""Make one clip of a prompt, in this process or from a server."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command
from pipelines.generate import Request, generate_from_server, generate_here


def register(app: typer.Typer) -> None:
    """Add `omniforcing generate` to `app`."""

    @command(app, "generate")
    def run_generate(
        call: Invocation,
        prompt: Annotated[str, typer.Option(help="What is seen and heard.")],
        out: Annotated[Path, typer.Option(help="MP4 file to write.")],
        model: Annotated[
            str | None,
            typer.Option(help="Folder, package:// or models:/NAME@ALIAS. Default: the preset's."),
        ] = None,
        seconds: Annotated[int, typer.Option(help="Length in whole seconds.")] = 5,
        seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clip.")] = 0,
        url: Annotated[
            str | None, typer.Option(help="Stream from this server, with its model and limits.")
        ] = None,
    ) -> None:
        """Stream a clip block by block into an MP4 file and say how fast it came."""
        request = Request(prompt, seconds, seed)
        if url is not None:
            clip = generate_from_server(call.config, url, request, out, call.progress)
        else:
            chosen = model or call.config.models.student
            clip = generate_here(call.config, chosen, request, out, call.progress)
        call.result(
            clip.as_dict(),
            f"{clip.file}: {clip.frames} frames, first chunk after {clip.first_chunk_s:.2f} s,"
            f" {clip.fps:.1f} frames a second, offset {clip.av_offset_ms:.0f} ms\n{clip.model}",
        )
