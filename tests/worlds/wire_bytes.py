"""Bytes that a rank receives from others, counted from its collectives."""

from pathlib import Path

from torch import Tensor
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infra.config import RunConfig

# By operator: which of its arguments is whole, and how often that goes around a ring of ranks. A
# sum goes around twice, once as sums of parts and once as their results.
AROUND = {
    "c10d::allreduce_": (0, 2),
    "c10d::_allgather_base_": (0, 1),  # its output
    "c10d::allgather_": (0, 1),  # its outputs
    "c10d::broadcast_": (0, 1),
    "c10d::_reduce_scatter_base_": (1, 1),  # its input
    "c10d::reduce_scatter_": (1, 1),  # its inputs
}
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
            assert name in AROUND, f"how far does {name} send its tensors?"
            place, times = AROUND[name]
            size = sum(x.nbytes for x in tree_leaves(args[place]) if isinstance(x, Tensor))
            self.received += times * self._others * size
        return func(*args, **(kwargs or {}))


def bytes_of_stages(folder, runs):
    """On one of the ranks: what it receives in each step of each run of a stage, by its name."""
    return {name: _bytes_of_steps(Path(folder) / name, **run) for name, run in runs.items()}


def _bytes_of_steps(folder, stage, values, data, model):
    from actors.training.distillation_worker import DistillationWorker, StageWork

    config = RunConfig.model_validate(values)
    starts = dict.fromkeys(("generator", "critic", "teacher"), model)
    worker = DistillationWorker(StageWork(stage, config, str(folder), data, starts, ()))
    received = []
    for _ in range(worker.steps):
        with WireBytes() as wire:
            worker.step()
        received.append(wire.received)
    worker.close()
    return received
