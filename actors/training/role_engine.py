"""One trainable role in one DeepSpeed engine: its update, and its whole state as named tensors.

The state is read and written through DeepSpeed's per-parameter interface, under the model's own
parameter names. So a checkpoint does not depend on how many workers wrote it or on their ZeRO
stage, and holds nothing that would have to be unpickled.
"""

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from infra.errors import CheckpointError
from infra.stages import GENERATOR, OptimiserConfig
from omniforcing_model.distillation.latent_batch import Batch
from omniforcing_model.distillation.objective import Models, Objective
from omniforcing_model.errors import DivergenceError
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
PARTITIONED_WEIGHTS = 3
SHOWN_NAMES = 5


@dataclass(frozen=True)
class RolePlan:
    """How a role learns.

    `micro_batches`: forward passes that one worker adds up per update. `updates`: of the stage.
    """

    role: str
    optimiser: OptimiserConfig
    learning_rate: float
    micro_batches: int
    updates: int

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
        self, plan: RolePlan, network: DualStreamTransformer, objective: Objective[Any]
    ) -> None:
        """Wrap `network`; every rank of the process group must do so at the same time."""
        self.network = network
        self.plan = plan
        self.updates = 0
        uses_sinks = objective.uses_sinks and plan.role == GENERATOR
        for name, parameter in network.named_parameters():
            # Weight decay would shrink sinks that no token of this role attends to.
            parameter.requires_grad_(uses_sinks or ".sinks." not in f".{name}")
        self._parameters = {k: p for k, p in network.named_parameters() if p.requires_grad}
        self._module = _RoleLoss(plan.role, network, objective)
        with quiet_deepspeed():
            self._engine = _deepspeed_engine(plan, self._module, list(self._parameters.values()))
            self._make_moments()

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
        losses: list[dict[str, Tensor]] = []
        with quiet_deepspeed():
            for batch, generator in batches:
                if losses:
                    self._engine.step()  # between micro-batches it only counts them
                parts = self._engine(models, batch, generator)
                self._engine.backward(parts["loss"])
                losses.append({name: value.detach() for name, value in parts.items()})
            figures = self._means(losses)
            norm = self._norm_of_whole_gradients()
            self._engine.step()
        figures["grad_norm"] = self._norm_after_step() if norm is None else norm
        self._require_finite(figures)
        return figures

    def state(self, owned: Callable[[str], bool]) -> dict[str, Tensor]:
        """Weights and moments of the parameters for which `owned(name)`; all ranks must call."""
        state: dict[str, Tensor] = {}
        with quiet_deepspeed():
            for name, parameter in self._parameters.items():
                for part in (WEIGHT, *MOMENTS):
                    value = self._full_tensor(parameter, part)
                    if owned(name):
                        state[f"{name}/{part}"] = value.detach().clone().contiguous()
        return state

    def restore(self, names: Collection[str], read: Callable[[str], Tensor], updates: int) -> None:
        """Continue from a saved state of all ranks, one tensor in memory at a time.

        Args:
            names: of its tensors.
            read: gives a tensor by name.
            updates: how many had been made.

        Raises:
            CheckpointError: the state is not of this model.
        """
        expected = {f"{name}/{part}" for name in self._parameters for part in (WEIGHT, *MOMENTS)}
        differing = sorted(expected.symmetric_difference(names))
        if differing:
            raise CheckpointError(
                f"expected the state of every parameter of the {self.plan.role}, got a difference"
                f" in {', '.join(differing[:SHOWN_NAMES])}; resume with the version that wrote the"
                " checkpoint"
            )
        with quiet_deepspeed():
            for name, parameter in self._parameters.items():
                for part in (WEIGHT, *MOMENTS):
                    self._set_full_tensor(parameter, part, read(f"{name}/{part}"))
        self._set_adam_steps(updates)
        self.updates = updates

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Within it the network holds all of its weights, whatever the ZeRO stage."""
        if self.plan.optimiser.zero_stage < PARTITIONED_WEIGHTS:
            yield
            return
        parameters = list(self.network.parameters())
        with quiet_deepspeed(), _deepspeed().zero.GatheredParameters(parameters):
            yield

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        self._engine.destroy()

    def _set_learning_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def _make_moments(self) -> None:
        """Let AdamW make its moments, so that they can be saved and set from the start.

        A step of length 0 on gradients of 0: no weight changes, no step is counted.
        """
        self._set_learning_rate(0.0)
        for _ in range(self.plan.micro_batches):
            with self.whole_weights():
                self._engine.backward(self._engine(None, None, None)["loss"])
            self._engine.step()
        self._set_adam_steps(0)

    def _set_adam_steps(self, updates: int) -> None:
        for state in self._adam().state.values():
            state["step"].fill_(updates)

    def _adam(self) -> Any:
        """AdamW itself, which ZeRO wraps."""
        optimiser = self._engine.optimizer
        return getattr(optimiser, "optimizer", optimiser)

    def _full_tensor(self, parameter: nn.Parameter, part: str) -> Tensor:
        if self.plan.optimiser.zero_stage == 0:
            value = parameter if part == WEIGHT else self._adam().state[parameter][part]
        elif part == WEIGHT:
            value = _deepspeed().utils.safe_get_full_fp32_param(parameter)
        else:
            value = _deepspeed().utils.safe_get_full_optimizer_state(parameter, part)
        assert isinstance(value, Tensor)
        return value

    @torch.no_grad()
    def _set_full_tensor(self, parameter: nn.Parameter, part: str, value: Tensor) -> None:
        stage = self.plan.optimiser.zero_stage
        value = value.to(self._engine.device)
        if stage == 0:
            self._full_tensor(parameter, part).copy_(value)
            return
        utils = _deepspeed().utils
        if part != WEIGHT:
            utils.safe_set_full_optimizer_state(parameter, value, part)
            return
        utils.safe_set_full_fp32_param(parameter, value)
        # The weights of the forward pass are a copy of those that AdamW updates.
        if stage < PARTITIONED_WEIGHTS:
            parameter.copy_(value)
        else:
            with _deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)

    def _means(self, losses: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """Means over ranks and micro-batches, so that every rank sees the same numbers."""
        names = sorted(losses[0])
        values = torch.stack([torch.stack([part[name] for name in names]) for part in losses])
        mean = values.float().mean(dim=0)
        dist.all_reduce(mean)
        figures = dict(zip(names, (mean / dist.get_world_size()).tolist(), strict=True))
        self._require_finite(figures)
        return figures

    def _norm_of_whole_gradients(self) -> float | None:
        """The norm before clipping where ZeRO does not report it: without ZeRO."""
        if self.plan.optimiser.zero_stage:
            return None
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        self._require_finite({"grad_norm": norm})  # here AdamW would take the step
        return norm

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


class _RoleLoss(nn.Module):
    """A role's part in the stage's loss, as the one forward pass that DeepSpeed sees."""

    def __init__(
        self, role: str, network: DualStreamTransformer, objective: Objective[Any]
    ) -> None:
        super().__init__()
        self.network = network
        self._role = role
        self._objective = objective

    def forward(
        self, models: Models | None, batch: Batch | None, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The loss with its parts; without a batch, a loss whose gradient is 0 everywhere."""
        if models is None or batch is None or generator is None:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            return {"loss": torch.stack([(p * 0).sum() for p in trained]).sum()}
        return self._objective.loss(self._role, models, batch, generator)


def _deepspeed_engine(plan: RolePlan, module: nn.Module, parameters: list[nn.Parameter]) -> Any:
    optimiser = plan.optimiser
    adam = torch.optim.AdamW(
        parameters,
        lr=plan.learning_rate,
        betas=optimiser.betas,
        weight_decay=optimiser.weight_decay,
    )
    settings = {
        "train_batch_size": plan.micro_batches * dist.get_world_size(),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": plan.micro_batches,
        "gradient_clipping": optimiser.clip_norm,
        "zero_optimization": {"stage": optimiser.zero_stage},
        "steps_per_print": None,
    }
    engine, *_ = _deepspeed().initialize(
        model=module, optimizer=adam, config=settings, dist_init_required=False
    )
    return engine


def _deepspeed() -> Any:
    """DeepSpeed, with the accelerator set before it looks for one itself.

    Without a GPU it would compile an operation of shared-memory collectives for a minute, and load
    the compiler for an optimiser that is not used; neither pays on a CPU.
    """
    without_gpu = not torch.cuda.is_available()
    if without_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed refuses to start without one
    import deepspeed  # noqa: PLC0415  # reads the variables above when it is imported

    deepspeed.utils.logger.setLevel("ERROR")
    if without_gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """Leave out warnings that DeepSpeed causes and a user cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="deepspeed|torch")
        yield
