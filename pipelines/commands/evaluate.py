"""Score the models on held-out prompts: sync, colour, rate and pitch, beside real clips."""

from typing import Annotated

import typer

from infra.errors import ConfigError
from infra.stages import STUDENT, TRAINED
from infra.terminal.command_line import Invocation, command
from omniforcing_model.beacons.world import held_out_prompts
from pipelines.evaluation.evaluate import DEFAULT_SEED, Candidate, configured_models, evaluate


def register(app: typer.Typer) -> None:
    """Add `omniforcing evaluate` to `app`."""

    @command(app, "evaluate")
    def run_evaluate(
        call: Invocation,
        prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts for each model.")] = 64,
        models: Annotated[
            list[str],
            typer.Option(
                metavar="STAGE=MODEL", help="Another model for a stage; repeatable; or STAGE alone."
            ),
        ] = [],  # noqa: B006  # Typer reads it and copies it
        seed: Annotated[int, typer.Option(min=0, help="Of prompts and noise.")] = DEFAULT_SEED,
    ) -> None:
        """Sample every stage's model on the same prompts and measure picture and sound.

        Without --models all stages are scored; with it, only those that are named.
        """
        chosen = _choose_models(models, configured_models(call.config))
        held_out = held_out_prompts(prompts, seed)
        evaluation = evaluate(call.config, chosen, held_out, call.progress, seed)
        lines = [f"{'':<8} {'offset ms':>10} {'rate':>6} {'colour':>7} {'pitch':>6}"]
        for name, scores in evaluation.scores.items():
            lines.append(
                f"{name:<8} {scores.av_offset_ms_median:>10.1f} {scores.rate_accuracy:>6.0%}"
                f" {scores.colour_accuracy:>7.0%} {scores.pitch_accuracy:>6.0%}"
            )
        call.result(evaluation.as_dict(), "\n".join(lines))


def _choose_models(options: list[str], configured: list[Candidate]) -> list[Candidate]:
    if not options:
        return configured
    named = {option.partition("=")[0]: option.partition("=")[2] for option in options}
    unknown = [name for name in named if name not in TRAINED]
    if unknown:
        raise ConfigError(
            f"expected STAGE=MODEL with a stage of {', '.join(TRAINED)}, got {', '.join(unknown)};"
            f" write for example --models {STUDENT}=out/model"
        )
    return [
        model._replace(uri=named[model.stage] or model.uri)
        for model in configured
        if model.stage in named
    ]
