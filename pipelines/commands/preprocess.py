"""Turn a folder of clips into a dataset of captions and latents."""

from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command, run_log
from pipelines.datasets.make_dataset import make_dataset


def register(app: typer.Typer) -> None:
    """Add `omniforcing preprocess` to `app`."""

    @command(app, "preprocess")
    def run_preprocess(
        call: Invocation,
        clips: Annotated[str, typer.Option(help="Folder or URI with clips and their captions.")],
        out: Annotated[str, typer.Option(help="Folder or URI of the dataset.")],
        captions: Annotated[
            str | None,
            typer.Option(
                help="Caption table instead of the folder's own: JSONL, CSV or Parquet with clip"
                " and caption, Open-Sora-Plan's JSON, AudioCaps' CSV."
            ),
        ] = None,
        redrive: Annotated[
            bool, typer.Option("--redrive", help="Try quarantined rows again.")
        ] = False,
    ) -> None:
        """Rewrite captions and encode latents with Ray Data; a rerun does only what is missing."""
        with run_log(out):
            summary = make_dataset(
                call.config, clips, out, call.progress, captions=captions, redrive=redrive
            )
        left_out = summary.filtered | summary.quarantined
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        call.result(
            summary.model_dump(mode="json"),
            f"{summary.ok} of {summary.rows} rows in {summary.dataset} after"
            f" {summary.seconds:.1f} s; left out: {reasons or 'none'}\n{summary.digest}",
        )
