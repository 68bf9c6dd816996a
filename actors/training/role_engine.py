"""One role in one DeepSpeed engine: its passes, its update, and its state as parts of tensors.

The state of a role that learns is what this rank holds of each weight and moment, under the model's
own parameter names (saved_tensors.py). So a checkpoint does not depend on how many workers wrote it
or on their ZeRO stage, and holds nothing that would have to be unpickled.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from actors.training.deepspeed_engines import (
    DTYPES,
    SPREAD_WEIGHTS,
    Held,
    deepspeed,
    frozen_engine,
    masters_of,
    quiet_deepspeed,
    trained_engine,
)
from actors.training.rollout_weights import rollout_copy
from actors.training.saved_tensors import SavedTensors, Shard
from actors.training.start_weights import StartWeights, own_part
from infra.errors import CheckpointError
from infra.stages import GENERATOR, OptimiserConfig, RolloutWeights
from omniforcing_model.distillation.latent_batch import Batch
from omniforcing_model.distillation.objective import Models, Objective
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.errors import DivergenceError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.denoiser import Denoiser
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
SHOWN_NAMES = 5


@dataclass(frozen=True)
class RolePlan:
    """How a role learns.

    `micro_batches`: forward passes that one worker adds up per update. `updates`: of the stage.
    `rollout_weights`: what its passes without gradients read, as of SelfForcingConfig.
    """

    role: str
    optimiser: OptimiserConfig
    learning_rate: float
    micro_batches: int
    updates: int
    rollout_weights: RolloutWeights = "sharded"

    def rate_of(self, update: int) -> float:
        """Learning rate of the update with this number, counted from 1.

        Up over the warm-up, constant, then down to zero over the last share of the stage.
        """
        settings = self.optimiser
        up = update / settings.warmup_steps if settings.warmup_steps else 1.0
        decay = settings.decay_share * self.updates
        down = (self.updates - update + 1) / decay if decay else 1.0
        return self.learning_rate * min(1.0, up, max(0.0, down))


class RoleEngine:
    """A role's model, its AdamW and its part in the stage's loss."""

    def __init__(
        self,
        plan: RolePlan,
        network: DualStreamTransformer,
        objective: Objective[Any],
        start: StartWeights,
    ) -> None:
        """Wrap `network`, made of `start`; every rank of the process group must do so at the same
        time."""
        self.network = network
        self.plan = plan
        self.updates = 0
        self._objective = objective
        uses_sinks = objective.uses_sinks and plan.role == GENERATOR
        for name, parameter in network.named_parameters():
            # Weight decay would shrink sinks that no token of this role attends to.
            parameter.requires_grad_(uses_sinks or ".sinks." not in f".{name}")
        named = dict(network.named_parameters())
        self._parameters = {k: p for k, p in named.items() if p.requires_grad}
        self._fixed = {k: _whole(start, k, p) for k, p in named.items() if not p.requires_grad}
        with quiet_deepspeed():
            self.module = TrainedTransformer(network, plan.optimiser.recomputes)
            self._engine = trained_engine(self.module, plan.optimiser, plan.learning_rate)
            self._make_moments()
        self._start_masters(start)
        self._copy = rollout_copy(network, plan.optimiser, plan.rollout_weights)
        self._refresh_copy()
        self.passes: Denoiser = SharedPasses(network, self._run)

    def update(
        self, models: Models, batches: Iterable[tuple[Batch, torch.Generator]]
    ) -> dict[str, float]:
        """One update from this rank's micro-batches.

        Returns the loss and its parts, means over all ranks, and the norm of the gradient before
        clipping. DivergenceError, on every rank, if one of them is not a finite number; the
        weights then are those before the update.
        """
        self.updates += 1
        self._set_learning_rate(self.plan.rate_of(self.updates))
        with quiet_deepspeed():
            losses = [self._backward(models, batch, generator) for batch, generator in batches]
            figures = self._means(losses)
            self._engine.step()
        self._refresh_copy()
        figures["grad_norm"] = self._norm_after_step()
        self._require_finite(figures)
        return figures

    def state(self) -> dict[str, Shard]:
        """What this rank holds of weights and moments, by name and part; it changes with them."""
        return {
            f"{name}/{part}": shard
            for part in (WEIGHT, *MOMENTS)
            for name, shard in self.shards(part).items()
        }

    def restore(self, saved: SavedTensors, updates: int) -> None:
        """Continue from a saved state; every rank reads its own part.

        Args:
            saved: the state.
            updates: how many had been made.

        Raises:
            CheckpointError: the state is not of this model.
        """
        expected = {f"{name}/{part}" for name in self._parameters for part in (WEIGHT, *MOMENTS)}
        differing = sorted(expected.symmetric_difference(saved.names))
        if differing:
            raise CheckpointError(
                f"expected the state of every parameter of the {self.plan.role}, got a difference"
                f" in {', '.join(differing[:SHOWN_NAMES])}; resume with the version that wrote the"
                " checkpoint"
            )
        for name, (values, start) in self.state().items():
            values.copy_(saved.part(name, start, len(values)))
        with quiet_deepspeed():
            for name, parameter in self._parameters.items():
                self._set_weight(parameter, f"{name}/{WEIGHT}", saved)
        self._set_adam_steps(updates)
        self._refresh_copy()
        self.updates = updates

    @property
    def learning(self) -> Collection[str]:
        """Names of the weights that learn."""
        return self._parameters.keys()

    def shards(self, part: str = WEIGHT) -> dict[str, Shard]:
        """What this rank holds of every weight that learns, in float32, or of a moment of it; it
        changes with them."""
        return {
            name: shard
            for name, parameter in self._parameters.items()
            if (shard := self._shard(parameter, part)) is not None
        }

    def whole(self, name: str, values: Tensor | None) -> Tensor:
        """A tensor of the shape of weight `name`, of which every rank gives the part that it holds
        of the weight: all of it, on every rank.

        A weight that does not learn is as it is, whatever is given.
        """
        if name in self._fixed:
            return self._fixed[name].clone()
        parameter = self._parameters[name]
        shape = _shape(parameter)
        flat = torch.zeros(math.prod(shape), device=self._engine.device)
        shard = self._shard(parameter)
        if shard is not None and values is not None:
            flat[shard.start : shard.start + len(values)] = values
        dist.all_reduce(flat)
        return flat.view(shape)

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        with quiet_deepspeed():
            self._engine.destroy()
        if self._copy is not None:
            self._copy.close()

    def _run(self, *of_pass: Any) -> PerStream[Tensor]:
        """A pass: of the engine, or without gradients of the copy that rollouts read."""
        nearest = self._engine
        if self._copy is not None and not torch.is_grad_enabled():
            nearest = self._copy.passes
        velocity: PerStream[Tensor] = nearest(*of_pass)
        return velocity

    def _refresh_copy(self) -> None:
        if self._copy is not None:
            self._copy.refresh()

    def _backward(
        self, models: Models, batch: Batch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Take the gradients of a micro-batch; returns its loss and parts."""
        sums: dict[str, Tensor] = {}
        for term in self._objective.losses(self.plan.role, models, batch, generator):
            loss = term["loss"] / self.plan.micro_batches
            self._engine.backward(loss, scale_wrt_gas=False)
            for name, value in term.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def _set_learning_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def _start_masters(self, start: StartWeights) -> None:
        """DeepSpeed made them of the weights of passes, which may be rounded."""
        if DTYPES[self.plan.optimiser.precision] == torch.float32:
            return
        for name, (values, first) in self.shards().items():
            values.copy_(start.part(name, first, len(values)))

    def _make_moments(self) -> None:
        """AdamW makes its moments in the first update; they may be saved or set before."""
        zero = self._engine.optimizer
        for master in masters_of(zero):
            moments = {part: torch.zeros_like(master) for part in MOMENTS}
            zero.optimizer.state[master] = {"step": torch.tensor(0.0, device="cpu"), **moments}
        if not self._is_spread:
            zero._lazy_init_hp_params_optimizer_state()

    def _set_adam_steps(self, updates: int) -> None:
        for state in self._engine.optimizer.optimizer.state.values():
            state["step"].fill_(updates)

    def _shard(self, parameter: nn.Parameter, part: str = WEIGHT) -> Shard | None:
        """What this rank holds of a weight as AdamW updates it, or of a moment; None if nothing."""
        spread: Any = parameter
        if self._is_spread:
            utils = deepspeed().utils
            values = (
                utils.safe_get_local_fp32_param(parameter)
                if part == WEIGHT
                else utils.safe_get_local_optimizer_state(parameter, part)
            )
            own, first = own_part(parameter)
            return Shard(values.detach().flatten()[: len(own)], first) if len(own) else None
        mapping = spread._hp_mapping
        if mapping is None:
            return None
        values = mapping.get_hp_fragment(None if part == WEIGHT else part)
        return Shard(values.detach().flatten(), mapping.lp_fragment_address.start)

    @property
    def _is_spread(self) -> bool:
        return self.plan.optimiser.zero_stage == SPREAD_WEIGHTS

    @torch.no_grad()
    def _set_weight(self, parameter: nn.Parameter, name: str, saved: SavedTensors) -> None:
        """The weights of passes are a copy of those that AdamW updates."""
        if not self._is_spread:
            parameter.copy_(saved.part(name, 0, parameter.numel()).view_as(parameter))
            return
        spread: Any = parameter
        if not spread.ds_persist:
            own, first = own_part(parameter)
            own.copy_(saved.part(name, first, len(own)))
            return
        whole = saved.part(name, 0, spread.ds_numel).view(spread.ds_shape)
        with deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(whole)

    def _means(self, losses: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Means over ranks and micro-batches, so that every rank sees the same numbers."""
        names = sorted(losses[0])
        values = torch.stack([torch.stack([part[name] for name in names]) for part in losses])
        mean = values.float().mean(dim=0)
        dist.all_reduce(mean)
        figures = dict(zip(names, (mean / dist.get_world_size()).tolist(), strict=True))
        self._require_finite(figures)
        return figures

    def _norm_after_step(self) -> float:
        """ZeRO leaves an update out, without an error, whose gradient is not finite."""
        norm = self._engine.get_global_grad_norm()
        return float(norm) if self._engine.was_step_applied() else float("nan")

    def _require_finite(self, figures: Mapping[str, float]) -> None:
        not_finite = [name for name, value in figures.items() if not abs(value) < float("inf")]
        if not_finite:
            raise DivergenceError(
                f"expected finite numbers in update {self.updates} of the {self.plan.role}, got"
                f" NaN or infinity in {', '.join(not_finite)}"
            )


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole weight, of which a rank may hold a part."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _whole(start: StartWeights, name: str, parameter: nn.Parameter) -> Tensor:
    """A weight that does not learn, as it is published: not as passes round it. A copy: a view of
    the file would keep all that was read of it in memory."""
    shape = _shape(parameter)
    part = start.part(name, 0, shape.numel())
    return part.to(parameter.device, torch.float32, copy=True).view(shape)


class FrozenRole:
    """A role that does not learn: its weights are spread as those of the roles that do."""

    def __init__(self, network: DualStreamTransformer, optimiser: OptimiserConfig | Held) -> None:
        """Wrap `network`; every rank of the process group must do so at the same time."""
        self.network = network.requires_grad_(False)
        self.module = TrainedTransformer(network)
        self._engine = None
        if optimiser.zero_stage == SPREAD_WEIGHTS:
            with quiet_deepspeed():
                self._engine = frozen_engine(self.module, optimiser)
        self.passes: Denoiser = SharedPasses(network, self._engine or self.module)

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        if self._engine is not None:
            self._engine.destroy()
