"""What actors claim of the cluster, and how many there are: each kind has the knobs it reads."""

from typing import Any

from pydantic import Field

from infra.machine import GIB
from omniforcing_model.config import FrozenConfig


class ActorClaim(FrozenConfig):
    """What one actor claims of its machine."""

    cpus: float = Field(ge=0)
    gpus: float = Field(ge=0, description="fractions share a GPU")
    memory_gib: float = Field(default=0, ge=0, description="0: not claimed")

    @property
    def ray_options(self) -> dict[str, Any]:
        """The claim as Ray's actors take it, memory in bytes."""
        memory = {"memory": self.memory_gib * GIB} if self.memory_gib else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus} | memory

    @property
    def ray_bundle(self) -> dict[str, float]:
        """The claim as a part of what a Ray cluster has."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_gib * GIB}


class ActorResources(ActorClaim):
    """What each of several equal actors claims, and how many there are."""

    replicas: int = Field(gt=0)


class SamplerResources(ActorResources):
    """Samplers of trajectories."""

    processes: int = Field(
        gt=0,
        description="of a sampler, each with this claim: they hold its weights together, where a"
        " GPU does not hold them all",
    )


class TeacherServerResources(ActorResources):
    """A pool of teachers, which training workers ask for their predictions."""

    kept_prompts: int = Field(
        gt=0, description="whose text features a server keeps in memory, the last ones asked about"
    )
    timeout_s: float = Field(
        gt=0, description="of a question, with all that a server lost meanwhile takes to be back"
    )


class PoolResources(ActorResources):
    """A pool of preprocessing: it grows up to `replicas` while there is more work than it does."""

    min_replicas: int = Field(default=1, gt=0, description="the pool starts with")


class LaterPoolResources(PoolResources):
    """Of a stage with another one before it."""

    with_previous: bool = Field(
        default=False,
        description="the stage works in the actors of the one before: no process of its own, no"
        " copies between; GPUs and memory add up, replicas are those of the first",
    )
