"""Start a local Ray cluster, or join one; end exactly what was started here.

Ray's own command stops every cluster of a machine. Here a cluster has its own temporary folder and
its processes are followed by id, so several can live side by side and none outlives its program.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import ray
from ray._private import ray_constants

from infra.config import ClusterConfig
from infra.environment import environment_variables
from infra.errors import ClusterError

LOG = logging.getLogger(__name__)

# A Unix socket's path has at most 107 characters, of which Ray's session folder takes about 66.
LONGEST_TEMP_PATH = 40
# Its daemons have 30 s to start, which a busy machine may not give them.
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
# Nobody else can reach a local cluster: it runs without authentication.
LOOPBACK = "127.0.0.1"
# What the processes of a local cluster inherit. Ray would otherwise write a token file into the
# user's home folder, report usage over the network, and warn once per worker about idle GPUs.
# Its C++ part reports its own bookkeeping as errors on the terminal: what matters raises.
# `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` is how Ray's own processes learn to stay on the loopback
# interface. Workers get the same share of a core as Ray's daemons, and as this program: with the
# niceness of 15 that Ray gives them, decoding with as many actors as cores took 8 % longer.
LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
}


@contextmanager
def local_cluster(config: ClusterConfig, *, dashboard: bool = False) -> Iterator[str]:
    """Yield the address of a Ray cluster that this process is connected to.

    With `config.address` the process joins that cluster and leaves it at the end. Without, it
    starts a cluster with `config.local_cpus` logical CPUs on this machine and ends it, its
    processes and its temporary folder, also when SIGINT or SIGTERM arrive. Inside another
    `local_cluster` it uses that one, so that a long command starts Ray once.

    `dashboard` starts Ray's dashboard on the loopback interface. Raises ClusterError if Ray does
    not start or the address does not answer.
    """
    if ray.is_initialized():
        yield _connected_address()
        return
    if config.address is None:
        opened = _started(config.local_cpus, dashboard)
    else:
        opened = _joined(config.address)
    with _sigterm_handler_restored(), opened as address:
        yield address


@contextmanager
def _joined(address: str) -> Iterator[str]:
    _expect_answer(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        _unwind_on_sigterm()
        yield _connected_address()
    finally:
        ray.shutdown()


def _expect_answer(address: str) -> None:
    """Fail within seconds if nothing listens at host:port; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "auto": Ray finds the cluster by itself
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"expected a Ray cluster at {address!r}, got: {_first_line(error)};"
        " check cluster.address, or set it to null to start a local one"
    )


@contextmanager
def _started(cpus: int, dashboard: bool) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_temp_folder()))
    environment = LOCAL_ENVIRONMENT | {"PYTHONPATH": _python_path()}
    try:
        with environment_variables(environment), _loopback_only():
            _start(folder, cpus, dashboard)
            _unwind_on_sigterm()
            yield _connected_address()
    finally:
        with _signals_ignored():
            processes = _processes_of(folder)
            # A start that was interrupted leaves daemons that nothing will ask to end.
            patience_s = STOP_TIMEOUT_S if ray.is_initialized() else 0.0
            ray.shutdown()
            _end(processes, patience_s)
            shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, cpus: int, dashboard: bool) -> None:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
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
            return
        except Exception as error:  # Ray raises the base class when its start takes over 30 s
            reason = _first_line(error).rstrip(".")
            LOG.warning("start of Ray, attempt %d of %d: %s", attempt, START_ATTEMPTS, reason)
            _end(_processes_of(folder), patience_s=0)
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"expected Ray to start on this machine, got: {reason}; look for free memory,"
                    f" for free space in {folder.parent}, and for work that keeps the CPUs busy"
                ) from error


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for this machine, as it does on other systems than Linux.

    It would put the machine's public address in its place, and listen on every interface.
    """
    previous = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = previous


@contextmanager
def _sigterm_handler_restored() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, previous)


def _unwind_on_sigterm() -> None:
    """Leave through every `finally` on SIGTERM; ray.init has just put its own handler in place."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _raise_system_exit)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise_system_exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the clean-up; it is bounded by STOP_TIMEOUT_S."""
    if not _in_main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _python_path() -> str:
    """Workers find our packages although the program may have been started from anywhere."""
    root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return root if not inherited else os.pathsep.join((root, inherited))


def _short_temp_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_TEMP_PATH else "/tmp"


def _connected_address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _processes_of(folder: Path) -> dict[int, str]:
    """Start time by id of every process under this one that belongs to the cluster in `folder`.

    Ray's daemons carry the folder in their command line; workers rename themselves, and are found
    as their children.
    """
    children: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat_fields(int(entry.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            started[int(entry.name)] = fields[19]
    mine: dict[int, str] = {}
    waiting = [(child, False) for child in children.get(os.getpid(), [])]
    while waiting:
        process, inherited = waiting.pop()
        belongs = inherited or str(folder) in _command_line(process)
        if belongs:
            mine[process] = started[process]
        waiting += [(child, belongs) for child in children.get(process, [])]
    return mine


def _end(processes: dict[int, str], patience_s: float) -> None:
    """Return when all `processes` are gone; kill those that stay longer than `patience_s`."""
    kill_at = time.monotonic() + patience_s
    while remaining := [number for number in processes if _is_running(number, processes[number])]:
        if time.monotonic() > kill_at:
            for number in remaining:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def _is_running(number: int, started: str) -> bool:
    fields = _stat_fields(number)
    return bool(fields) and fields[19] == started and fields[0] != "Z"


def _stat_fields(number: int) -> list[str]:
    """Fields of /proc/<number>/stat after the name: state, parent, ...; empty if it is gone."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _command_line(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
