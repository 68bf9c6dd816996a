"""A sampler of trajectories that is several processes, for a model that one GPU does not hold.

They meet in a process group of their own. Whichever of them is lost, the others cannot go on: all
are started again, and make the shard at hand anew.
"""

import logging
from collections.abc import Mapping
from typing import Any

import ray
from numpy.typing import NDArray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.training.ranks import Rank
from actors.training.teacher_sampler import SamplerRank, TrajectoryWork, answer_of
from infra.dataset.shards import ShardRecord
from infra.errors import ClusterError
from pipelines.ray_jobs.tasks import translated_ray_errors

LOG = logging.getLogger(__name__)


class SamplerGroup:
    """Makes shards as a `TeacherSampler` does; its processes end with the actor that has it."""

    def __init__(self, work: TrajectoryWork) -> None:
        """Claim room for all processes at once, and start them; errors as of `TeacherSampler`."""
        self._work, self._ranks = work, list[Any]()
        self._claim = work.config.cluster.teacher_sampler
        bundle = {name: amount for name, amount in self._claim.ray_bundle.items() if amount}
        # Two samplers that each had half of their processes would wait for ever.
        self._place = placement_group([bundle] * self._claim.processes, strategy="PACK")
        with translated_ray_errors():
            ray.get(self._place.ready())
            self._start()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Write the shards numbered `id`; returns each with its `record`, the shard's as JSON."""
        return answer_of(batch, self.write)

    def write(self, number: int) -> ShardRecord:
        """Make and write shard `number`; errors as of `TeacherSampler`.

        ClusterError if processes are lost more often than cluster.training_restarts.
        """
        left = self._work.config.cluster.training_restarts
        while True:
            try:
                with translated_ray_errors():
                    if not self._ranks:
                        self._start()
                    record, *_ = self._all("write", *([(number,)] * len(self._ranks)))
                assert isinstance(record, ShardRecord), "the first rank writes"
                return record
            except ClusterError as lost:
                self._end()
                if not left:
                    raise
                left -= 1
                LOG.warning("a sampler has lost processes and is started again: %s", lost)

    def _start(self) -> None:
        count = self._claim.processes
        actor: Any = ray.remote(SamplerRank)
        for number in range(count):
            where = PlacementGroupSchedulingStrategy(self._place, number)
            options = self._claim.ray_options | {"scheduling_strategy": where, "max_restarts": 0}
            self._ranks.append(actor.options(**options).remote())
        meeting = ray.get(self._ranks[0].invite.remote(count))
        ranks = [Rank(number, count) for number in range(count)]
        self._all("join", *((self._work, rank, meeting) for rank in ranks))

    def _all(self, method: str, *arguments: tuple[Any, ...]) -> list[Any]:
        """What `method` returns on each rank; the first error at once, the others may wait for it
        for ever."""
        calls = [
            getattr(rank, method).remote(*of_rank)
            for rank, of_rank in zip(self._ranks, arguments, strict=True)
        ]
        waiting = calls
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
        return ray.get(calls)

    def _end(self) -> None:
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
