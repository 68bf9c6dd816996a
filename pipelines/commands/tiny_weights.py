"""Train the weights that ship with the package, from nothing."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command, run_log
from pipelines.demo.tiny_weights import make_tiny_weights

SHIPPED = Path("omniforcing_model/tiny_weights")


def register(app: typer.Typer) -> None:
    """Add `omniforcing tiny-weights` to `app`."""

    @command(app, "tiny-weights")
    def run_tiny_weights(
        call: Invocation,
        run: Annotated[Path, typer.Option(help="Folder for clips, dataset and stages.")],
        out: Annotated[Path, typer.Option(help="Folder that gets the weights.")] = SHIPPED,
        seed: Annotated[int, typer.Option(min=0, help="Of the clips.")] = 0,
    ) -> None:
        """Render clips, fit the codecs, train teacher and stages I to III, score and install."""
        with run_log(str(run)):
            trained = make_tiny_weights(call.config, run, out, call.progress, seed)
        lines = [f"{name}: {scores}" for name, scores in trained.scores.items()]
        call.result(
            trained.model_dump(mode="json"), "\n".join([*lines, f"weights in {trained.folder}"])
        )
