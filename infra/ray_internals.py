"""What we borrow from inside Ray, which may change it in any release. No other file of ours does.

* `_temp_dir` and `_node_ip_address` of `ray.init`: a cluster in a folder of its own, so that its
  processes are known by it, and on 127.0.0.1.
* `ray._private.ray_constants.ENABLE_RAY_CLUSTER`: Ray replaces 127.0.0.1 by the machine's public
  address, and listens on every interface, except on systems where this is False. Its own processes
  read it from the variable `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`.
* `ray._raylet.CoreWorker`: making it, Ray's C++ part says on standard error that it has read
  `RAY_BACKEND_LOG_LEVEL`, before that level holds; that line alone is left out.
* `ray._private.worker.print_to_stdstream`: what Ray tells of workers that died goes to our log; the
  error that comes of it is raised, and a traceback for each try to start them again helps nobody.
* `RAY_worker_niceness`: workers get the same share of a core as Ray's daemons and as this program.
  With the niceness of 15 that Ray gives them, decoding with an actor per core took 8 % longer.
* `ray._private.utils.set_sigterm_handler`: `ray.init` puts a handler of its own in place before it
  starts anything, so that a program that is ended meanwhile has status 15.
* `ray._private.services.ConsolePopen`: Ray's daemons get a session of their own. A service manager
  signals all processes of a group at once; with its daemons gone, Ray waits for them for long.

The others of LOCAL_ENVIRONMENT are documented. A test asks the installed Ray for each of them.
"""

import functools
import inspect
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants, services, utils
from ray._private import worker as ray_worker

from infra.signals import in_main_thread

LOG = logging.getLogger(__name__)

# Nobody else can reach a local cluster: it runs without authentication.
LOOPBACK = "127.0.0.1"
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
NICENESS_VARIABLE = "RAY_worker_niceness"
LEVEL_LINE = b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"
# Of a local cluster, beside its sessions: what was said while this process joined it.
JOINING_FILE = "joining.err"
INIT_OPTIONS = ("_node_ip_address", "_temp_dir")
# What the processes of a local cluster inherit. Ray would otherwise write a token file into the
# user's home folder, report usage over the network, and warn once per worker about idle GPUs.
# Its C++ part reports its own bookkeeping as errors on the terminal: what matters raises.
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    LOOPBACK_VARIABLE: "0",
    NICENESS_VARIABLE: "0",
}


@contextmanager
def bind_to_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for this machine, as it does on other systems than Linux."""
    previous = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = previous


@contextmanager
def tales_in_log() -> Iterator[None]:
    """Let what Ray tells of its workers go to our log at DEBUG, not to the terminal."""
    print_lines = ray_worker.print_to_stdstream

    def log(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if data.get("pid") != "raylet":
            print_lines(data, *arguments, **options)
        for line in data["lines"] if data.get("pid") == "raylet" else ():
            LOG.debug("Ray: %s", line)

    ray_worker.print_to_stdstream = log
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = print_lines


@contextmanager
def _daemons_in_a_session_of_their_own() -> Iterator[None]:
    """Keep from the daemons that Ray starts meanwhile what is sent to this program's group."""
    starting: Any = services
    popen = starting.ConsolePopen
    starting.ConsolePopen = functools.partial(popen, start_new_session=True)
    try:
        yield
    finally:
        starting.ConsolePopen = popen


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Let the handler of SIGTERM that is in place stay while Ray starts, and after it."""
    handler = signal.getsignal(signal.SIGTERM)
    set_by_ray = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_by_ray
        if in_main_thread():
            # Ray's C++ part has one as well, that aborts; Python's knows nothing of it.
            signal.signal(signal.SIGTERM, handler)


def start_ray(folder: Path, cpus: int, dashboard: bool) -> None:
    """`ray.init` of a new cluster with its files in `folder`; raises what that raises."""
    with _daemons_in_a_session_of_their_own(), _quiet_joining(folder / JOINING_FILE):
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=dashboard,
            dashboard_host=LOOPBACK,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder),
        )


@contextmanager
def _quiet_joining(kept: Path) -> Iterator[None]:
    """Make Ray's CoreWorker without its line about the level of its log."""
    raylet: Any = _raylet  # has no types
    core_worker = raylet.CoreWorker

    def make(*arguments: Any, **options: Any) -> Any:
        with without_line(LEVEL_LINE, kept):
            return core_worker(*arguments, **options)

    raylet.CoreWorker = make
    try:
        yield
    finally:
        raylet.CoreWorker = core_worker


@contextmanager
def without_line(words: bytes, kept: Path) -> Iterator[None]:
    """Leave lines with `words` out of what this process writes on standard error meanwhile.

    The rest comes at the end; if the process dies before, it stands in the file `kept`.
    """
    standard_error = os.dup(2)
    try:
        with kept.open("w+b") as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(standard_error, 2)
                held.seek(0)
                os.write(2, b"".join(line for line in held if words not in line))
                kept.unlink()
    finally:
        os.close(standard_error)


def missing_internals() -> list[str]:
    """Which of the above the installed Ray has no longer."""
    words = inspect.unwrap(ray.init).__code__.co_consts  # it takes these options by their names
    names = [f"option {name} of ray.init" for name in INIT_OPTIONS if name not in words]
    if not isinstance(getattr(ray_constants, "ENABLE_RAY_CLUSTER", None), bool):
        names.append("ray._private.ray_constants.ENABLE_RAY_CLUSTER")
    if not callable(getattr(ray_worker, "print_to_stdstream", None)):
        names.append("ray._private.worker.print_to_stdstream")
    if not callable(getattr(_raylet, "CoreWorker", None)):
        names.append("ray._raylet.CoreWorker")
    if not callable(getattr(services, "ConsolePopen", None)):
        names.append("ray._private.services.ConsolePopen")
    if not callable(getattr(utils, "set_sigterm_handler", None)):
        names.append("ray._private.utils.set_sigterm_handler")
    if getattr(ray_constants, "ENABLE_RAY_CLUSTERS_ENV_VAR", None) != LOOPBACK_VARIABLE:
        names.append(f"the variable {LOOPBACK_VARIABLE}")
    return names
