"""Work in processes of the cluster, and errors on their way back from there."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayError

from infra.errors import ClusterError, MachineError
from infra.machine_faults import machine_fault, machine_faults
from omniforcing_model.errors import OmniForcingError

Result = TypeVar("Result")
TASK_CPUS = 1.0
# Of the process for tables: as often as Ray runs a task again.
RESTARTS = 3
# Of an error that a worker met before it came to our code.
_NUMBER = re.compile(r"OSError: \[Errno (\d+)\]")
# What Ray itself may be short of, by the error that says so.
_EXHAUSTED: dict[type[RayError], str] = {
    OutOfDiskError: "room on the disk",
    ObjectStoreFullError: "shared memory",
    OutOfMemoryError: "memory",
}


def run_in_task(work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` returns in a process of the cluster; errors as of `translated_ray_errors`.

    Any process that idles serves, and does other tasks of the run later.
    """
    with translated_ray_errors():
        task = ray.remote(_run).options(num_cpus=TASK_CPUS, name=work.__name__)
        result: Result = ray.get(task.remote(work, *arguments))
    return result


class TableProcess:
    """A process of the cluster for what looks at all rows: their tables stay out of the driver.

    One for the steps between a run's graphs: the actors of a graph end with it, and a task after it
    would often be another process, a second of work.
    """

    def __init__(self) -> None:
        """Ask for the process; it ends when this object does."""
        resources = {"num_cpus": 0, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        self._actor: Any = ray.remote(_TableActor).options(**resources).remote()

    def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What `work` returns there; errors as of `translated_ray_errors`."""
        with translated_ray_errors():
            result: Result = ray.get(self._actor.run.remote(work, *arguments))
        return result


class _TableActor:
    def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return _run(work, *arguments)


def _run(work: Callable[..., Result], *arguments: Any) -> Result:
    # Here, because an error loses what it came from on its way to the driver.
    with machine_faults():
        return work(*arguments)


@contextmanager
def translated_ray_errors() -> Iterator[None]:
    """Raise what a task raised, if it is an error of ours, as it was; what was the machine's fault
    as MachineError; else ClusterError."""
    try:
        yield
    except RayError as error:
        ours = _cause_of_ours(error) or _machine_fault(error)
        if ours is not None:
            # Ray Data appends lines of its own on retries.
            ours.args = (str(ours).partition("\n")[0],)
            raise ours from error
        reason = " ".join(str(error).strip().splitlines()[-1:])
        raise ClusterError(
            f"expected Ray to finish its work, got: {reason}; correct the cause and run the same"
            " command again: what is finished is kept"
        ) from error


def _cause_of_ours(error: RayError) -> OmniForcingError | None:
    """What a task raised; Ray's own error would tell the whole traceback in its message."""
    return next((each for each in _causes(error) if isinstance(each, OmniForcingError)), None)


def _machine_fault(error: RayError) -> MachineError | None:
    """What a task met, or Ray itself, if that is the machine's fault."""
    faults = (machine_fault(each) for each in _causes(error))
    if (fault := next(filter(None, faults), None)) is not None:
        return fault
    last = "".join(str(error).strip().splitlines()[-1:])
    if (number := _NUMBER.search(last)) is not None:
        return machine_fault(OSError(int(number[1]), last.partition("] ")[2]))
    what = next((what for kind, what in _EXHAUSTED.items() if isinstance(error, kind)), None)
    if what is None:
        return None
    reason = str(error).strip().partition("\n")[0]
    return MachineError(
        f"expected {what} for Ray, got: {reason}; free some, then run the same command again: what"
        " is done stays done"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The errors that an error came from, without those that Ray wrapped them in."""
    while error is not None:
        inner = getattr(error, "cause", None) if isinstance(error, RayError) else error.__cause__
        if not isinstance(error, RayError):
            yield error
        error = inner
