"""Bytes that a rank receives from others, counted from its collectives."""

from pathlib import Path

from torch import Tensor
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infra.config import RunConfig

# Of what an operator is given first, as rings do it: each rank passes on what it has received. Sums
# go around twice, once as sums of parts and once as their results.
TIMES_AROUND = {
    "c10d::allreduce_": 2,
    "c10d::_allgather_base_": 1,  # its output
    "c10d::allgather_": 1,  # its outputs
    "c10d::broadcast_": 1,
}
# Of what it is given second, its input.
TIMES_AROUND_OF_INPUT = {"c10d::_reduce_scatter_base_": 1, "c10d::reduce_scatter_": 1}
NO_DATA = {"c10d::barrier"}


class WireBytes(TorchDispatchMode):
    """`received`: bytes of the collectives within it; AssertionError for one it does not know."""

    def __init__(self):
        super().__init__()
        self.received = 0.0
        ranks = dist.get_world_size()
        self._others = (ranks - 1) / ranks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name.startswith("c10d::") and name not in NO_DATA:
            counted = args[0] if name in TIMES_AROUND else args[1]
            times = (TIMES_AROUND | TIMES_AROUND_OF_INPUT).get(name)
            assert times is not None, f"how far does {name} send its tensors?"
            size = sum(x.nbytes for x in tree_leaves(counted) if isinstance(x, Tensor))
            self.received += times * self._others * size
        return func(*args, **(kwargs or {}))


def bytes_of_steps(folder, stage, data, values):
    """On one of the ranks: what it receives in each step of a stage."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    folder, config = Path(folder), RunConfig.model_validate(values)
    starts = dict.fromkeys(("generator", "critic", "teacher"), str(folder / "model"))
    worker = DistillationWorker(StageWork(stage, config, str(folder / "run"), data, starts, ()))
    received = []
    for _ in range(worker.steps):
        with WireBytes() as wire:
            worker.step()
        received.append(wire.received)
    worker.close()
    return received
