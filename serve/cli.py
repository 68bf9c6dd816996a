"""Serve a model: streams of picture and sound over HTTP, with a player page, until stopped."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import typer

from infra.config import RunConfig
from infra.errors import ClusterError
from infra.ray_cluster import local_cluster
from infra.runs.checkpoint_store import resolve_model
from infra.terminal.command_line import Invocation, command
from omniforcing_model.weights.checkpoint_files import folder_digest
from serve.app import build_application, serve_application
from serve.endpoint.http_server import bound_socket

LOG = logging.getLogger(__name__)
READY_TIMEOUT_S = 180.0
POLL_S = 0.2
# With the end of the cluster that comes after it, a service manager's 10 s suffice.
STOP_PATIENCE_S = 3.0
LARGEST_PORT = 65_535


def register(app: typer.Typer) -> None:
    """Add `omniforcing serve` to `app`."""

    @command(app, "serve")
    def run_serve(
        call: Invocation,
        model: Annotated[
            str | None,
            typer.Option(help="Folder, package:// or models:/NAME@ALIAS. Default: the preset's."),
        ] = None,
        host: Annotated[
            str | None, typer.Option(help="Address to listen on; default serve.host.")
        ] = None,
        port: Annotated[
            int | None,
            typer.Option(min=0, max=LARGEST_PORT, help="0: a free one; default serve.port."),
        ] = None,
    ) -> None:
        """Serve a model until Ctrl-C or SIGTERM, then stop everything that was started.

        Prints the URL once a stream can begin: with --json one object with `url` and `model`.
        """
        config = _listening_on(call.config, host, port)
        uri = model or config.models.student
        folder = resolve_model(uri, config.tracking.uri)
        name = f"{uri} {folder_digest(folder)}"
        application = build_application(config, folder.resolve(), name)
        url = f"http://{_shown_host(config.serve.host)}:{config.serve.port}"
        with _stopping_on_signals() as stopped, local_cluster(config.cluster):
            with serve_application(config, application, STOP_PATIENCE_S):
                _wait_until_ready(url, stopped)
                if not stopped.is_set():
                    call.result({"url": url, "model": name}, f"{url}\n{name}")
                    call.output.flush()
                stopped.wait()
            LOG.info("stopping")


def _listening_on(config: RunConfig, host: str | None, port: int | None) -> RunConfig:
    """The configuration with this host and port, checked before anything is started.

    Raises:
        ConfigError: the host is no address of this machine.
        ClusterError: the port is taken.
    """
    host = config.serve.host if host is None else host
    requested_port = config.serve.port if port is None else port
    with bound_socket(host, requested_port) as probe:
        bound = int(probe.getsockname()[1])
    serve = config.serve.model_copy(update={"host": host, "port": bound})
    if serve.api_key_file is not None:
        # Replicas have another working folder.
        absolute = str(Path(serve.api_key_file).expanduser().resolve())
        serve = serve.model_copy(update={"api_key_file": absolute})
    return config.model_copy(update={"serve": serve})


def _shown_host(host: str) -> str:
    """An address that a client on this machine can use."""
    if host in ("0.0.0.0", "::"):  # compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM end the block, with status 0: they are how serving ends.

    The event is set too: what a handler raises inside of a destructor, Python drops.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        raise SystemExit(0)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, stop) for number in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _wait_until_ready(url: str, stopped: threading.Event) -> None:
    """Return when a stream can begin, or `stopped` is set; ClusterError if it takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    answer = "nothing"
    while not stopped.is_set():
        try:
            reply = httpx.get(f"{url}/readyz", timeout=POLL_S * 10)
            if reply.is_success:
                return
            answer = reply.text
        except httpx.HTTPError as error:
            answer = type(error).__name__
        if time.monotonic() > deadline:
            raise ClusterError(
                f"expected a ready pair within {READY_TIMEOUT_S:g} s, got {answer[:200]};"
                " look for free CPUs (cluster.local_cpus) and memory"
            )
        stopped.wait(POLL_S)


def main() -> None:
    """`python -m serve.cli serve`: this command alone."""
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    register(app)
    app()


if __name__ == "__main__":
    main()
