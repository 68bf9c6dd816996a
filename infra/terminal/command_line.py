"""What every command of `omniforcing` shares: options, result, errors and exit status.

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 130 stopped by Ctrl-C. Standard output
holds the result and nothing else; progress, logs and errors go to standard error.
"""

import functools
import inspect
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TextIO

import typer

from infra.config import RunConfig
from infra.errors import ConfigError
from infra.machine_faults import machine_fault
from infra.presets import load_config, load_preset, preset_names
from infra.signals import raise_system_exit
from infra.terminal.progress import Progress, progress_to
from infra.terminal.structured_log import configure_logging, log_file
from omniforcing_model.errors import OmniForcingError

LOG = logging.getLogger(__name__)
Options = ParamSpec("Options")

FAILED = 1
BAD_USAGE = 2
STOPPED = 128 + signal.SIGINT


@dataclass(frozen=True)
class Invocation:
    """One call of a command: its configuration, and where its progress and result go."""

    config: RunConfig
    progress: Progress
    as_json: bool
    output: TextIO

    def result(self, values: Mapping[str, Any] | list[Any], text: str) -> None:
        """Write the result on standard output: `values` as one JSON object, or `text`."""
        self.output.write((json.dumps(values) if self.as_json else text.rstrip()) + "\n")


def command(
    app: typer.Typer, name: str
) -> Callable[[Callable[Concatenate[Invocation, Options], None]], Callable[..., None]]:
    """Add a function to `app` as command `name`, with the options every command has.

    The function gets an Invocation first, then its own options. Its docstring is the help text.
    """

    def register(function: Callable[Concatenate[Invocation, Options], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> None:
            shared = {key: options.pop(key) for key in _SHARED}
            debug = shared.pop("debug")
            with errors_in_one_line(debug), results_on_standard_output() as output:
                configure_logging(verbose=debug)
                function(_invocation(**shared, output=output), *args, **options)

        _show_typer_the_options(run, function)
        app.command(name)(run)
        return run

    return register


def _invocation(
    preset: str, config: Path | None, set_: list[str], json_: bool, output: TextIO
) -> Invocation:
    if config is None:
        resolved = load_preset(preset, set_)
    elif not config.is_file() and str(config) in preset_names():
        resolved = load_preset(str(config), set_)
    else:
        resolved = load_config(config, set_)
    return Invocation(resolved, progress_to(), json_, output)


_SHARED: dict[str, tuple[Any, Any]] = {
    "preset": (
        Annotated[str, typer.Option(help=f"Configuration by name: {', '.join(preset_names())}.")],
        "tiny",
    ),
    "config": (
        Annotated[
            Path | None,
            typer.Option(help="Configuration from a YAML file instead, or a preset's name."),
        ],
        None,
    ),
    "set_": (
        Annotated[
            list[str],
            typer.Option("--set", metavar="A.B=VALUE", help="Replace one value; repeatable."),
        ],
        (),
    ),
    "json_": (
        Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")],
        False,
    ),
    "debug": (
        Annotated[bool, typer.Option("--debug", help="Log more, and show tracebacks.")],
        False,
    ),
}


def _show_typer_the_options(run: Callable[..., None], function: Callable[..., Any]) -> None:
    """Typer reads options from a signature: the function's own and ours, no Invocation."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, (kind, default) in _SHARED.items()
    ]
    parameters = [*own, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Turn an exception into one line on standard error and an exit status.

    With `debug` the traceback comes first. SIGTERM unwinds like Ctrl-C, so that what a command
    has started is stopped by the same `finally`.
    """
    try:
        with unwind_on_sigterm():
            yield
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except KeyboardInterrupt:
        _one_line("stopped")
        raise typer.Exit(STOPPED) from None
    except Exception as error:
        _show_traceback(debug)
        known = machine_fault(error) or error
        if isinstance(known, OmniForcingError):
            _one_line(f"error: {known}")
            raise typer.Exit(BAD_USAGE if isinstance(known, ConfigError) else FAILED) from None
        # The last resort: a bug, in one line too.
        LOG.debug("unexpected error", exc_info=True)
        again = "" if debug else "; run again with --debug for the traceback"
        _one_line(f"error: unexpected {type(error).__name__}: {error}{again}")
        raise typer.Exit(FAILED) from None


@contextmanager
def unwind_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) in the main thread meanwhile."""
    previous = signal.signal(signal.SIGTERM, raise_system_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _show_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)


def _one_line(text: str) -> None:
    typer.echo(" ".join(text.split()), err=True)


def run_log(out: str) -> AbstractContextManager[object]:
    """Log to `out`/log.jsonl meanwhile, if `out` is a folder of this machine and not a URI."""
    return nullcontext() if "://" in out else log_file(Path(out))


@contextmanager
def results_on_standard_output() -> Iterator[TextIO]:
    """Yield a stream to standard output; what others print meanwhile goes to standard error.

    Libraries print, some from C; a program that reads our JSON must not see that.
    """
    sys.stdout.flush()
    standard_output = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(standard_output), "w", encoding="utf-8") as results:
            yield results
    finally:
        sys.stdout.flush()
        os.dup2(standard_output, 1)
        os.close(standard_output)
