"""Teachers elsewhere: a pool of `TeacherServer` on Ray, and how a training worker asks it.

A server that is lost is started again by Ray and holds nothing then; a question brings all that
its answer needs, so it is put again, to the next server first, and the training step goes on.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from threading import Event
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from actors.training.distillation_worker import StageWork
from actors.training.teacher_server import (
    MissingTexts,
    TeacherServer,
    TeacherWork,
    on_device,
    question_of,
)
from infra.claims import TeacherServerResources
from infra.errors import ClusterError
from infra.stages import TEACHER
from omniforcing_model.distillation.real_score import NoisedSamples
from omniforcing_model.per_stream import PerStream
from pipelines.ray_jobs.tasks import translated_ray_errors

LOG = logging.getLogger(__name__)
POLL_S = 0.2  # how soon a question that nobody waits for any more is given up
PAUSE_S = 0.5  # between attempts: a server needs seconds to be back


@contextmanager
def teacher_pool(claim: TeacherServerResources) -> Iterator[tuple[str, ...]]:
    """Start servers on the Ray cluster that is connected; yields their names, and ends them.

    It does not wait for them: whoever asks does.
    """
    pool = uuid.uuid4().hex[:12]
    names = tuple(f"teacher-{pool}-{number}" for number in range(claim.replicas))
    # A question is put again by who asked it: Ray would wait for the same server.
    options = {**claim.ray_options, "max_restarts": -1, "max_task_retries": 0}
    actor: Any = ray.remote(TeacherServer)
    servers = [actor.options(name=name, **options).remote(claim) for name in names]
    try:
        yield names
    finally:
        if ray.is_initialized():
            for server in servers:
                ray.kill(server)


class RemoteTeacher:
    """The real score (`RealScore`) of a pool, as one training worker asks for it.

    Questions wait in a thread, so that the worker computes meanwhile.
    """

    def __init__(self, names: Sequence[str], work: StageWork, rank: int) -> None:
        """Let a server load the teacher; `wait_until_loaded` tells how that ended.

        Args:
            names: of the servers; workers begin with different ones, by `rank`.
            work: whose teacher it is.
            rank: of the worker.
        """
        self._names, self._first = names, rank
        self._teacher = TeacherWork(work.config, work.stage, work.starts.get(TEACHER))
        self._timeout_s = work.config.cluster.teacher_server.timeout_s
        self._closed = Event()
        self._thread = ThreadPoolExecutor(1, "teacher")
        self._loaded: Future[None] = self._thread.submit(self._call, "load", self._teacher)

    def wait_until_loaded(self) -> None:
        """Raises ClusterError if no server answers within cluster.teacher_server.timeout_s, and
        what a server raises."""
        self._loaded.result()

    def ask(self, samples: NoisedSamples) -> Callable[[], PerStream[Tensor]]:
        """Clean latents in the shapes of `samples.noisy`; calling for them waits.

        That raises ClusterError if no server has answered within cluster.teacher_server.timeout_s.
        """
        device = samples.sigma.device
        answer = self._thread.submit(self._answer, on_device(samples, "cpu"))
        return lambda: answer.result().map(lambda clean: clean.to(device))

    def close(self) -> None:
        """Give up what is asked; the pool stays."""
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _answer(self, samples: NoisedSamples) -> PerStream[Tensor]:
        question, known = question_of(samples)
        brought: dict[str, PerStream[Tensor]] = {}
        while True:
            answer = self._call("predict", self._teacher, question, brought)
            if not isinstance(answer, MissingTexts):
                clean: PerStream[Tensor] = answer
                return clean
            brought |= {digest: known[digest] for digest in answer.digests}

    def _call(self, method: str, *arguments: Any) -> Any:
        """What a server's `method` returns: the worker's own server's, or another's."""
        deadline = time.monotonic() + self._timeout_s
        reason = "none"
        for turn in count(self._first):
            name = self._names[turn % len(self._names)]
            try:
                call = getattr(ray.get_actor(name), method).remote(*arguments)
                if not self._has_come(call, deadline):
                    break
                return ray.get(call)
            except RayTaskError:
                with translated_ray_errors():
                    raise
            except (RayError, ValueError) as lost:  # ValueError: no actor of that name
                reason = " ".join(str(lost).strip().splitlines()[:1])
                LOG.warning("%s is lost, asking again: %s", name, reason)
            if self._closed.wait(PAUSE_S) or time.monotonic() > deadline:
                break
        raise ClusterError(
            f"expected one of {len(self._names)} teacher servers to answer within"
            f" {self._timeout_s:g} s, got {reason}; give the cluster room for"
            " cluster.teacher_server, raise its timeout_s, or set cluster.placement.teacher=local"
        )

    def _has_come(self, call: Any, deadline: float) -> bool:
        while not self._closed.is_set() and (left := deadline - time.monotonic()) > 0:
            come, _ = ray.wait([call], timeout=min(POLL_S, left))
            if come:
                return True
        return False
