"""Tell which clips, captions, configurations and commits made a model."""

from typing import Annotated

import typer

from infra.terminal.command_line import Invocation, command
from pipelines.lineage.lineage import lineage


def register(app: typer.Typer) -> None:
    """Add `omniforcing lineage` to `app`."""

    @command(app, "lineage")
    def show_lineage(
        call: Invocation,
        model: Annotated[str, typer.Argument(help="Model folder, or models:/NAME@ALIAS.")],
    ) -> None:
        """Print the chain of datasets and models that a model was made of."""
        nodes = lineage(model, call.config.tracking.uri)
        values = [node.model_dump(mode="json") for node in nodes]
        lines = []
        for node in values:
            made_of = f"  <- {', '.join(node['inputs'])}" if node["inputs"] else ""
            lines.append(f"{node['kind']:<12} {node['name']}  {node['digest']}{made_of}")
        call.result(values, "\n".join(lines))
