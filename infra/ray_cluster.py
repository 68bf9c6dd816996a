"""Start a local Ray cluster, or join one; end exactly what was started here.

Ray's own command stops every cluster of a machine. Here a cluster has its own temporary folder and
its processes are followed by id, so several can live side by side and none outlives its program.
"""

import atexit
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from infra.config import ClusterConfig
from infra.environment import environment_variables
from infra.errors import ClusterError, MachineError
from infra.full_disk import interrupted_by_full_disk
from infra.machine_faults import machine_fault
from infra.processes import end_processes, processes_of
from infra.ray_internals import (
    LOCAL_ENVIRONMENT,
    bind_to_loopback,
    own_signal_handlers,
    start_ray,
    tales_in_log,
)
from infra.signals import ignore_signals, in_main_thread, raise_system_exit

LOG = logging.getLogger(__name__)

# A Unix socket's path has at most 107 characters, of which Ray's session folder takes about 66.
LONGEST_TEMP_PATH = 40
# Its daemons have 30 s to start, which a busy machine may not give them.
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 4.0
CONNECT_TIMEOUT_S = 5.0
# What its daemons need to start, and what Ray asks for where many workers connect.
LEAST_OPEN_FILES, OPEN_FILES = 64, 65_536


@contextmanager
def local_cluster(config: ClusterConfig, *, dashboard: bool = False) -> Iterator[str]:
    """Yield the address of a Ray cluster that this process is connected to.

    With `config.address` the process joins that cluster and leaves it at the end. Without, it
    starts a cluster with `config.local_cpus` logical CPUs on this machine and ends it, its
    processes and its temporary folders, also when SIGINT or SIGTERM arrive. Inside another
    `local_cluster` it uses that one, so that a long command starts Ray once.

    `dashboard` starts Ray's dashboard on the loopback interface. Raises ClusterError if Ray does
    not start or the address does not answer, MachineError if the disk with its files is full.
    """
    if ray.is_initialized():
        yield _connected_address()
        return
    if config.address is None:
        opened = _new_cluster(config.local_cpus, dashboard)
    else:
        opened = _joined_cluster(config.address)
    # Ray goes on telling until it is shut down, which `opened` does.
    with _unwinding_on_sigterm(), tales_in_log(), opened as address:
        yield address


@contextmanager
def _joined_cluster(address: str) -> Iterator[str]:
    _expect_answer(address)
    try:
        with own_signal_handlers():
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
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
def _new_cluster(cpus: int, dashboard: bool) -> Iterator[str]:
    _require_open_files()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_temp_folder()))
    # What workers keep for a while goes with the cluster, though they be killed.
    scratch = Path(tempfile.mkdtemp(prefix="ray-scratch-"))
    environment = LOCAL_ENVIRONMENT | {"PYTHONPATH": _python_path(), "TMPDIR": str(scratch)}
    try:
        with environment_variables(environment), bind_to_loopback():
            with own_signal_handlers():
                _start(folder, cpus, dashboard)
            with interrupted_by_full_disk(folder):
                yield _connected_address()
    finally:
        with ignore_signals():
            processes = processes_of(folder)
            # A start that was interrupted leaves daemons that nothing will ask to end.
            patience_s = STOP_TIMEOUT_S if ray.is_initialized() else 0.0
            is_down = _shut_down()
            end_processes(processes, patience_s)
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            if not is_down:
                if not _shut_down():
                    atexit.unregister(ray.shutdown)  # would fail again, at length
                shutil.rmtree(folder, ignore_errors=True)


def _shut_down() -> bool:
    """Whether this process has left Ray whole: on its way out Ray makes a folder, which a full disk
    does not let it."""
    try:
        ray.shutdown()
    except OSError as error:
        LOG.debug("end of Ray: %s", error)
        return False
    return True


def _require_open_files() -> None:
    """Allow this process and Ray's as many open files as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if most < LEAST_OPEN_FILES:
        raise MachineError(
            f"expected {LEAST_OPEN_FILES} open files or more for each process of Ray (ulimit -n),"
            f" got a limit of {most}; raise it, as by ulimit -n {OPEN_FILES}, then run the same"
            " command again: what is done stays done"
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _start(folder: Path, cpus: int, dashboard: bool) -> None:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            start_ray(folder, cpus, dashboard)
            return
        except Exception as error:  # Ray raises the base class when its start takes over 30 s
            reason = _first_line(error).rstrip(".")
            LOG.warning("start of Ray, attempt %d of %d: %s", attempt, START_ATTEMPTS, reason)
            end_processes(processes_of(folder), patience_s=0)
            if (fault := machine_fault(error, folder)) is not None:
                raise fault from error
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"expected Ray to start on this machine, got: {reason}; look for free memory,"
                    f" for free space in {folder.parent}, and for work that keeps the CPUs busy"
                ) from error


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """Leave through every `finally` on SIGTERM, unless the program has a handler of its own."""
    previous = signal.getsignal(signal.SIGTERM)
    if not in_main_thread() or previous is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, raise_system_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


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
