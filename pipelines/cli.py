"""The `omniforcing` command: finds the command that was asked for, and loads only that one.

A command is a module with `register(app)`; the first line of the module's docstring is its summary
in the list of commands, read without importing the module, because many import torch and Ray.
Other packages add commands through the entry-point group `omniforcing.commands`.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import typer

from infra.terminal.command_line import BAD_USAGE, FAILED, errors_in_one_line

ENTRY_POINTS = "omniforcing.commands"
OUR_COMMANDS = {
    "demo": "pipelines.commands.demo",
    "doctor": "pipelines.commands.doctor",
    "plan": "pipelines.commands.plan",
    "render": "pipelines.commands.render",
    "preprocess": "pipelines.commands.preprocess",
    "dataset": "pipelines.commands.dataset",
    "distill": "pipelines.commands.distill",
    "generate": "pipelines.commands.generate",
    "evaluate": "pipelines.commands.evaluate",
    "lineage": "pipelines.commands.lineage",
    "bench": "pipelines.commands.bench",
    "weights": "pipelines.commands.weights",
    "tiny-weights": "pipelines.commands.tiny_weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (0 done, 1 failed, 2 bad usage, 130 stopped)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((argument for argument in words if not argument.startswith("-")), None)
    try:
        with errors_in_one_line(debug="--debug" in words):
            app = _application(name)
        status = app(words or ["--help"], prog_name="omniforcing", standalone_mode=False)
    except typer.Exit as stop:
        status = stop.exit_code
    except typer.TyperException as error:
        where = f"omniforcing {name}" if name in _commands() else "omniforcing"
        message = " ".join(error.format_message().split())
        typer.echo(f"error: {message} Try '{where} --help'.", err=True)
        status = BAD_USAGE
    except typer.Abort:
        status = FAILED
    return int(status or 0)


def _commands() -> dict[str, str]:
    """Module of every command, by the command's name."""
    others = {entry.name: entry.module for entry in metadata.entry_points(group=ENTRY_POINTS)}
    return OUR_COMMANDS | others


def _application(chosen: str | None) -> typer.Typer:
    """All commands by name and summary; `chosen` with its options and its code."""
    app = typer.Typer(
        help="Distil an audio-video diffusion model into a causal one, and stream from it.",
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without a callback, Typer would drop the command's name from an app with one command.
    app.callback()(_no_options)
    for name, module in _commands().items():
        if name == chosen:
            importlib.import_module(module).register(app)
        else:
            app.command(name, help=_summary(module))(_no_options)
    return app


def _no_options() -> None:
    pass


def _summary(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "not installed"
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
