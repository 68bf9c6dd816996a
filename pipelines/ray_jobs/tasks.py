"""Work in processes of the cluster, and errors on their way back from there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from infra.errors import ClusterError
from omniforcing_model.errors import OmniForcingError

Result = TypeVar("Result")
TASK_CPUS = 1.0
# Of the process for tables: as often as Ray runs a task again.
RESTARTS = 3


def run_in_task(work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` returns in a process of the cluster; errors as of `translated_ray_errors`.

    Any process that idles serves, and does other tasks of the run later.
    """
    with translated_ray_errors():
        result: Result = ray.get(ray.remote(work).options(num_cpus=TASK_CPUS).remote(*arguments))
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
        return work(*arguments)


@contextmanager
def translated_ray_errors() -> Iterator[None]:
    """Raise what a task raised, if it is an error of ours, as it was; else ClusterError."""
    try:
        yield
    except RayError as error:
        ours = _cause_of_ours(error)
        if ours is not None:
            raise ours from error
        reason = " ".join(str(error).strip().splitlines()[-1:])
        raise ClusterError(
            f"expected Ray to finish its work, got: {reason}; correct the cause and run the same"
            " command again: what is finished is kept"
        ) from error


def _cause_of_ours(error: BaseException | None) -> OmniForcingError | None:
    """What a task raised; Ray's own error would tell the whole traceback in its message."""
    while error is not None:
        inner = getattr(error, "cause", None) if isinstance(error, RayError) else error.__cause__
        if isinstance(error, OmniForcingError) and not isinstance(error, RayError):
            return error
        error = inner
    return None
