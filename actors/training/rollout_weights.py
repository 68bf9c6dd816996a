"""The generator's weights as its rollouts read them, nearer than all ranks together hold them.

A rollout is many passes without gradients, and each gathers every layer: from ranks of other nodes
over the slowest link. A copy that is read from nearer is made anew once an update: cut over the
ranks of a node, or whole on every rank.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from actors.training.deepspeed_engines import (
    SPREAD_WEIGHTS,
    deepspeed,
    engine_settings,
    frozen_engine,
    quiet_deepspeed,
)
from actors.training.start_weights import give_memory, made_spread, own_part
from infra.stages import OptimiserConfig, RolloutWeights
from omniforcing_model.distillation.trained_transformer import TrainedTransformer
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer


def rollout_copy(
    source: DualStreamTransformer, optimiser: OptimiserConfig, kind: RolloutWeights
) -> "RolloutCopy | None":
    """A copy of the spread `source`, or None where rollouts read the weights as they are.

    Those that are not spread are whole already, and where all ranks are on one node they are near.
    Every rank calls this at the same time.
    """
    if kind == "sharded" or optimiser.zero_stage != SPREAD_WEIGHTS:
        return None
    if kind == "whole":
        return RolloutCopy(source, optimiser, None)
    group = node_group()
    return None if group is None else RolloutCopy(source, optimiser, group)


def node_group() -> Any:
    """The process group of this rank's node; None if all ranks are on it.

    Every rank calls this at the same time; a launcher says in NODE_RANK on which node it is.
    """
    nodes: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(nodes, os.environ.get("NODE_RANK", "0"))
    if len(set(nodes)) == 1:
        return None
    own = None
    for node in sorted(set(nodes)):  # every rank makes every group
        group = dist.new_group([rank for rank, of_rank in enumerate(nodes) if of_rank == node])
        if node == nodes[dist.get_rank()]:
            own = group
    return own


class RolloutCopy:
    """The weights of `source` once more, without gradients."""

    def __init__(
        self, source: DualStreamTransformer, optimiser: OptimiserConfig, group: Any
    ) -> None:
        """Make room for them, whole or cut over the ranks of `group`; `refresh` fills it."""
        self._source = source
        # DeepSpeed cuts nothing over a group of one.
        is_cut = group is not None and dist.get_world_size(group) > 1
        network = DualStreamTransformer.without_memory(source.config).to(source.dtype)
        network.requires_grad_(False)
        if is_cut:
            settings = engine_settings(source.config, optimiser)
            made_spread(network, settings, source.device, group)
        else:
            give_memory(network, source.device)
        self._network, self._group = network, group if is_cut else None
        self.passes: Any = TrainedTransformer(network)
        if is_cut:
            with quiet_deepspeed():
                self.passes = frozen_engine(self.passes, optimiser)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights of `source` as they are; every rank calls this at the same time."""
        for pairs in self._parts():
            sources = [source for source, _ in pairs]
            with quiet_deepspeed(), deepspeed().zero.GatheredParameters(sources):
                for source, own in pairs:
                    self._fill(own, source)

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        if self._group is not None:
            self.passes.destroy()

    def _fill(self, own: nn.Parameter, whole: torch.Tensor) -> None:
        if self._group is None:
            own.copy_(whole)
            return
        if own.numel():  # small ones stay whole after their first pass
            own.data.copy_(whole)
        part, first = own_part(own, self._group)
        part.copy_(whole.flatten()[first : first + len(part)])

    def _parts(self) -> Iterator[list[tuple[nn.Parameter, nn.Parameter]]]:
        """Weights of the source and of the copy, a layer of a stream at a time."""
        copies = dict(self._network.named_parameters())
        parts: dict[str, list[tuple[nn.Parameter, nn.Parameter]]] = {}
        for name, source in self._source.named_parameters():
            stream, kind, index, *_ = (*name.split("."), "", "")
            layer = f"{stream}.{index}" if kind == "layers" else name
            parts.setdefault(layer, []).append((source, copies[name]))
        yield from parts.values()
