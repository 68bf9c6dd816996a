"""Turn a folder of clips into a dataset of captions and latents."""

from typing import Annotated

import typer

from infra.command_line import Invocation, command, run_log
from pipelines.preprocess import preprocess


def register(app: typer.Typer) -> None:
    """Add `omniforcing preprocess` to `app`."""

    @command(app, "preprocess")
    def run_preprocess(
        call: Invocation,
        clips: Annotated[str, typer.Option(help="Folder or URI with clips and their captions.")],
        out: Annotated[str, typer.Option(help="Folder or URI of the dataset.")],
    ) -> None:
        """Rewrite captions and encode latents with Ray Data; a rerun does only what is missing."""
        with run_log(out):
            summary = preprocess(call.config, clips, out, call.progress)
        left_out = summary.filtered | summary.quarantined
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        call.result(
            summary.model_dump(mode="json"),
            f"{summary.ok} of {summary.rows} clips in {summary.dataset} after"
            f" {summary.seconds:.1f} s; left out: {reasons or 'none'}\n{summary.digest}",
        )
