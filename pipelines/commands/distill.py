"""Train the stages on a dataset: the teacher, and the student stage by stage."""

from typing import Annotated

import typer

from infra.errors import ConfigError
from infra.stages import TRAINED
from infra.terminal.command_line import Invocation, command, run_log
from pipelines.training.distill import distill
from pipelines.training.stage_plan import trained_stages


def register(app: typer.Typer) -> None:
    """Add `omniforcing distill` to `app`."""

    @command(app, "distill")
    def run_distill(
        call: Invocation,
        dataset: Annotated[str, typer.Option(help="Dataset of `omniforcing preprocess`.")],
        out: Annotated[str, typer.Option(help="Run folder or URI: checkpoints, models, lineage.")],
        stage: Annotated[
            list[str],
            typer.Option(
                help=f"One of {', '.join(TRAINED)}; repeatable. Default: from the first to the last"
                " that has steps."
            ),
        ] = [],  # noqa: B006  # Typer reads it and copies it
        start: Annotated[
            list[str],
            typer.Option(metavar="ROLE=MODEL", help="Start a role from this model; repeatable."),
        ] = [],  # noqa: B006
    ) -> None:
        """Train with Ray Train; stages whose inputs have not changed are not trained again."""
        unknown = [name for name in stage if name not in TRAINED]
        if unknown:
            raise ConfigError(
                f"expected stages of {', '.join(TRAINED)}, got {', '.join(unknown)};"
                " name one of them, or none for all"
            )
        chosen = stage or list(trained_stages(call.config))
        with run_log(out):
            summary = distill(
                call.config, dataset, out, chosen, starting_models(start), call.progress
            )
        values = summary.model_dump(mode="json")
        call.result(values, "\n".join(f"{key}: {value}" for key, value in values.items()))


def starting_models(options: list[str]) -> dict[str, str]:
    """`ROLE=MODEL` options as a mapping; ConfigError for one of another form."""
    pairs = [option.partition("=") for option in options]
    for (role, equals, model), option in zip(pairs, options, strict=True):
        if not (role and equals and model):
            raise ConfigError(f"expected --start ROLE=MODEL, got {option!r}; write teacher=URI")
    return {role: model for role, _, model in pairs}
