"""Look at a checkpoint of LTX-2, OmniForcing or ours, check it, or write it in another format."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from infra.errors import ConfigError
from infra.terminal.command_line import Invocation, command
from omniforcing_model.config import FamilyName, LayoutConfig
from omniforcing_model.families import FAMILIES, LAYOUTS
from omniforcing_model.per_stream import STREAMS
from omniforcing_model.weights.stated_family import StatedFamily
from pipelines.weights import DTYPE_OPTIONS, Conversion, Target, convert, inspect, verify

SHOWN = 5
Source = Annotated[
    Path, typer.Argument(help="Folder (ours, diffusers'), single file, or index of shards.")
]
Family = Annotated[
    str | None,
    typer.Option(
        help=f"What the weights were made for, refused if they say other: {', '.join(FAMILIES)}.",
    ),
]
Override = Annotated[
    bool, typer.Option("--override-family", help="Believe --family, not the checkpoint.")
]


def register(app: typer.Typer) -> None:
    """Add `omniforcing weights` with its own commands to `app`."""
    weights = typer.Typer(help=__doc__)
    _add_inspect(weights)
    _add_verify(weights)
    _add_convert(weights)
    app.add_typer(weights, name="weights")


def _add_inspect(weights: typer.Typer) -> None:
    @command(weights, "inspect")
    def run_inspect(
        call: Invocation, path: Source, family: Family = None, override: Override = False
    ) -> None:
        """Tell format, architecture, profile, sizes, and tensors that are missing or too many.

        Reads names and shapes, no tensors.
        """
        facts = inspect(path, _stated(family, override))
        call.result(facts, _as_text(facts))


def _add_verify(weights: typer.Typer) -> None:
    @command(weights, "verify")
    def run_verify(
        call: Invocation,
        path: Source,
        family: Family = None,
        override: Override = False,
        sample: Annotated[
            int | None, typer.Option(min=1, help="Read that many tensors only; default all.")
        ] = None,
    ) -> None:
        """Check that every tensor is there in its shape and finite, and print the digest."""
        result = verify(path, _stated(family, override), call.progress, sample)
        call.result(
            result,
            f"{result['path']}: {result['tensors']} tensors of {result['architecture']},"
            f" {result['tensors_read']} read, all finite\n{result['digest']}",
        )


def _add_convert(weights: typer.Typer) -> None:
    @command(weights, "convert")
    def run_convert(
        call: Invocation,
        path: Source,
        target: Annotated[Path, typer.Argument(help="New folder, or file for single-file.")],
        to: Annotated[Target, typer.Option(help="Format to write.")] = "ours",
        dtype: Annotated[
            str | None, typer.Option(help=f"Of the tensors: {', '.join(DTYPE_OPTIONS)}.")
        ] = None,
        family: Family = None,
        override: Override = False,
        layout: Annotated[
            str | None,
            typer.Option(
                metavar="NAME[:SINKS]",
                help=f"{', '.join(LAYOUTS)}, and new sinks, for a checkpoint without a layout.",
            ),
        ] = None,
    ) -> None:
        """Write a checkpoint in another format; no step holds more than one tensor.

        Sinks are left out of diffusers' format, which has no place for them.
        """
        if dtype is not None and dtype not in DTYPE_OPTIONS:
            raise ConfigError(
                f"expected a dtype of {', '.join(DTYPE_OPTIONS)}, got {dtype!r}; name one"
            )
        stated = _stated(family, override, _layout(layout))
        result = convert(path, Conversion(target, to, dtype), stated, call.progress)
        lines = [f"{result['path']}: {result['tensors']} tensors, {_gigabytes(result['bytes'])}"]
        lines += [f"left out: {_list_names(result['left_out'])}"] if result["left_out"] else []
        lines += [f"started new: {_list_names(result['fresh'])}"] if result["fresh"] else []
        call.result(result, "\n".join(lines))


def _stated(family: str | None, override: bool, layout: LayoutConfig | None = None) -> StatedFamily:
    if family is None:
        if override:
            raise ConfigError("expected --family with --override-family, got none; name it")
        return StatedFamily(layout)
    known = {str(name): name for name in FAMILIES}
    if family not in known:
        raise ConfigError(
            f"expected a family of {', '.join(known)}, got {family!r}; name one of them"
        )
    return StatedFamily(layout, family=known[family], override=override)


def _layout(option: str | None) -> LayoutConfig | None:
    if option is None:
        return None
    name, _, sinks = option.partition(":")
    try:
        return LayoutConfig.model_validate(LAYOUTS[name].model_dump() | {"sinks": sinks or 0})
    except (KeyError, ValidationError) as error:
        raise ConfigError(
            f"expected --layout {', '.join(LAYOUTS)}, or with sinks paper:16, got {option!r}"
        ) from error


def _as_text(facts: dict[str, Any]) -> str:
    profile, layout = facts["profile"], facts["layout"]
    lines = [
        f"{facts['path']}: {facts['format']}, {facts['architecture']}, {facts['layers']} layers",
        f"profile     {profile['pairs']} pairs, {profile['frequencies']} frequencies,"
        f" gate multiplier {profile['gate_timestep_scale']:g}",
        f"layout      {_blocks(layout)}, {layout['sinks']} sinks",
        *_family_line(facts["family"]),
        f"tensors     {facts['tensors']:,} with {facts['parameters']:,} parameters,"
        f" {_gigabytes(facts['bytes'])} in {len(facts['files'])} files",
        f"dtypes      {', '.join(f'{count} {name}' for name, count in facts['dtypes'].items())}",
    ]
    for stream, parts in facts["parameters_by_part"].items():
        shown = ", ".join(f"{part} {count:,}" for part, count in parts.items())
        lines.append(f"{stream:<11} {sum(parts.values()):,}: {shown}")
    for kind in ("missing", "unexpected", "misshaped", "dropped", "fresh"):
        if facts[kind]:
            lines.append(f"{kind:<11} {len(facts[kind])}: {_list_names(facts[kind])}")
    return "\n".join(lines)


def _family_line(name: FamilyName | None) -> list[str]:
    """What is said of weights that are of a release."""
    if name is None:
        return []
    family = FAMILIES[name]
    steps = ", ".join(f"{sigma:g}" for sigma in family.sigmas)
    return [f"family      {name}, {family.fps} frames/s, sigmas {steps or 'of many steps'}"]


def _blocks(layout: dict[str, Any]) -> str:
    """Latents of the first block and of those after it: 1|3 video, 1|25 audio."""
    first, following = layout["first_block"], layout["following_block"]
    return ", ".join(f"{first[name]}|{following[name]} {name}" for name in STREAMS)


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f} GB"
