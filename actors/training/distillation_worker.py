"""One rank of a training stage: its roles, its share of every batch, checkpoints and the result.

All randomness of a step comes from (seed, stage, role, step, micro-batch), never from a state that
runs along. So a resumed run repeats the straight one bit for bit, and a micro-batch is the same
whichever worker takes it. What decides how many passes are made does not come from the micro-batch:
all ranks make the same ones.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import distributed as dist

from actors.training.averaged_weights import AveragedWeights
from actors.training.ranks import any_rank, backend_of
from actors.training.role_engine import FrozenRole, RoleEngine, RolePlan
from actors.training.saved_tensors import SavedTensors, Shard, write_shards
from actors.training.stage_batches import Batches, StageBatches
from actors.training.stage_objectives import stage_objective
from actors.training.start_weights import StartWeights, made_network, start_weights
from infra.config import RunConfig
from infra.errors import CheckpointError
from infra.leases.fence import Fence, require_owner
from infra.runs.checkpoint_store import (
    CheckpointManifest,
    CheckpointStore,
    FileRecord,
    publish,
    record_of,
    unfinished_model,
    write_text_at_once,
)
from infra.runs.loss_curve import CURVE_FILE, Figures, LossCurve, recent_means
from infra.runs.provenance import (
    MANIFEST,
    ArtifactRef,
    ModelManifest,
    code_commit,
    digest_of,
)
from infra.runs.run_folder import model_name, result_folder, stage_folder
from infra.runs.stage_recipe import stage_recipe
from infra.signals import noted_signals
from infra.stages import GENERATOR, STAGES, TEACHER, TrainedRole
from omniforcing_model.distillation.real_score import RealScore
from omniforcing_model.distillation.trained_transformer import TrainedTransformer
from omniforcing_model.errors import DivergenceError
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.checkpoint_files import folder_digest
from omniforcing_model.weights.checkpoint_writing import write_ours

LOG = logging.getLogger(__name__)
EMA_FILE = "ema"
CHECKPOINTS = "checkpoints"
LIBRARIES = ("torch", "deepspeed")


@dataclass(frozen=True)
class StageWork:
    """One stage to train, as plain values that travel to every worker.

    `data`: URI of the rows, clips or trajectories. `starts`: model folder of each role; a role
    without one starts from random weights. `inputs`: what the result will be made of.
    `fence`: of the run folder, as of `require_owner`; rank 0 asks it at each commit. `prompts`: URI
    of the dataset that trajectories name rows of, None where they say it is.
    """

    stage: str
    config: RunConfig
    run_folder: str
    data: str
    starts: dict[str, str]
    inputs: tuple[ArtifactRef, ...]
    fence: Fence | None = None
    prompts: str | None = None

    @property
    def folder(self) -> Path:
        """Where the stage's checkpoints, curve and model lie."""
        return stage_folder(self.run_folder, self.stage)


class DistillationWorker:
    """Trains one stage as one rank; all ranks call the same methods at the same time."""

    def __init__(
        self,
        work: StageWork,
        device: str = "cpu",
        real_score: RealScore | None = None,
        batches: Batches | None = None,
    ) -> None:
        """Load models and data, and continue from the newest complete checkpoint.

        Uses the process group that is there; without one it is a world of one rank. The teacher of
        a `real_score` is elsewhere: this process loads none. `batches`: instead of rows at the
        work's data.

        Raises:
            ConfigError: workers, batch and micro-batch do not divide.
            CheckpointError: a checkpoint is there, but of another configuration or damaged.
            DatasetError: the data cannot be read.
        """
        if not dist.is_initialized():
            # It stays until the process ends: DeepSpeed remembers the groups it has seen.
            store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in its __all__
            dist.init_process_group(backend_of(device), store=store, rank=0, world_size=1)
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        if device != "cpu":
            # The stages make their masks, sigmas and noise where everything else is.
            torch.set_default_device(device)
        self._device = device
        self._work = work
        settings = work.config.stages.trained_stage(work.stage)
        self._optimiser = settings.optimiser
        self._recipe = stage_recipe(work.config, work.stage, work.inputs)
        if batches is None:
            batches = StageBatches(work.config, work.stage, work.data, device, work.prompts)
        self._batches = batches
        self._objective = stage_objective(work.config, work.stage, real_score)
        self._every = {role.name: role.every for role in settings.roles}
        self._engines = {role.name: self._engine(role) for role in settings.roles}
        self._frozen = {
            role: FrozenRole(self._made(self._start(role)), self._optimiser)
            for role in STAGES[work.stage].frozen
            if real_score is None or role != TEACHER
        }
        self._of_roles: dict[str, RoleEngine | FrozenRole] = {**self._engines, **self._frozen}
        self._models = {role: engine.passes for role, engine in self._of_roles.items()}
        self._averages = AveragedWeights(self._engines[GENERATOR], self._optimiser.ema_decay)
        self._checkpoints = CheckpointStore(work.folder / CHECKPOINTS, work.fence)
        self.steps_done = self._steps_saved = 0
        self._resume()

    @property
    def steps(self) -> int:
        """Steps of the whole stage."""
        return self._optimiser.steps

    @property
    def modules(self) -> dict[str, TrainedTransformer]:
        """The roles that are here; each pass of one is a call of its module."""
        return {role: engine.module for role, engine in self._of_roles.items()}

    def run(
        self,
        after_step: Callable[[int, Figures], None] | None = None,
        is_asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end, save on the way, and publish the model; returns whether it has.

        If a rank is asked to stop, or gets SIGINT or SIGTERM, all save the step that they have come
        to, and end; then the signal has its usual effect.
        """
        with noted_signals() as has_signal:
            return self._train(after_step, lambda: has_signal() or is_asked_to_stop())

    def _train(
        self, after_step: Callable[[int, Figures], None] | None, is_asked: Callable[[], bool]
    ) -> bool:
        curve = self._curve()
        try:
            while self.steps_done < self.steps:
                if any_rank(is_asked(), self._device):
                    if self.steps_done != self._steps_saved:
                        self.save()
                    return False
                figures = self.step()
                if curve is not None:
                    curve.append(self.steps_done, figures)
                last = self.steps_done == self.steps
                if last or self.steps_done % self._optimiser.checkpoint_every == 0:
                    self.save()
                if after_step is not None:
                    after_step(self.steps_done, figures)
            self.publish()
        finally:
            if curve is not None:
                curve.close()
        return True

    def step(self) -> Figures:
        """Update every role whose turn it is, in their order.

        Returns the roles' losses, their parts and gradient norms, means over all workers.
        DivergenceError, naming stage, role and step, if one is not a finite number.
        """
        figures: Figures = {}
        for role, engine in self._engines.items():
            if (self.steps_done + 1) % self._every[role]:
                continue  # not its turn
            try:
                batches = self._batches.of_step(role, self.steps_done)
                of_role = engine.update(self._models, batches)
            except DivergenceError as error:
                raise DivergenceError(
                    f"{self._work.stage}, step {self.steps_done + 1}, {role}: {error}; lower its"
                    f" learning rate or clip_norm, or look at the clips of this step"
                ) from error
            figures |= {f"{role}_{name}": value for name, value in of_role.items()}
            if role == GENERATOR:
                self._averages.update()
        self.steps_done += 1
        return figures

    def save(self) -> None:
        """Write a checkpoint of everything a resume needs; complete once all ranks have written."""
        if self._rank == 0:
            self._checkpoints.begin(self.steps_done)
        dist.barrier()
        place = self._checkpoints.unfinished(self.steps_done)
        records: list[FileRecord] = []
        for name, state in self._state().items():
            records.append(record_of(write_shards(place, name, self._rank, state)))
        by_rank: list[list[FileRecord]] = [[] for _ in range(self._world)]
        dist.all_gather_object(by_rank, records)
        if self._rank == 0:
            self._checkpoints.commit(
                CheckpointManifest(
                    stage=self._work.stage,
                    step=self.steps_done,
                    updates={role: engine.updates for role, engine in self._engines.items()},
                    world_size=self._world,
                    recipe=self._recipe,
                    files=tuple(record for of_rank in by_rank for record in of_rank),
                )
            )
        dist.barrier()
        self._steps_saved = self.steps_done

    def publish(self) -> None:
        """Write the averaged generator as the stage's model, with its manifest.

        One tensor is whole at a time, on every rank; rank 0 asks for it and writes it.
        """
        if self._rank != 0:
            self._averages.answer()
        else:
            folder = result_folder(self._work.run_folder, self._work.stage)
            fence = self._work.fence
            unfinished = unfinished_model(folder, fence)
            name = model_name(self._work.config.name, self._work.stage)
            notes = {"name": name, "stage": self._work.stage}
            with self._averages.asking():
                write_ours(unfinished, self._work.config.model, self._averages.tensors(), notes)
            manifest = self._manifest(name, folder_digest(unfinished))
            write_text_at_once(unfinished / MANIFEST, manifest.model_dump_json(indent=1))
            require_owner(fence)
            publish(unfinished, folder)
        dist.barrier()

    def close(self) -> None:
        """Free the engines; the process group stays."""
        for engine in self._engines.values():
            engine.close()
        for frozen in self._frozen.values():
            frozen.close()

    def _engine(self, role: TrainedRole) -> RoleEngine:
        settings = self._work.config.stages.trained_stage(self._work.stage)
        plan = RolePlan(
            role.name,
            self._optimiser,
            role.learning_rate,
            len(self._batches),
            role.updates,
            settings.rollouts_read if role.name == GENERATOR else "sharded",
        )
        start = self._start(role.name)
        return RoleEngine(plan, self._made(start), self._objective, start)

    def _start(self, role: str) -> StartWeights:
        """The weights that a role starts from; ConfigError if those are of another shape."""
        work = self._work
        return start_weights(work.config, work.stage, role, work.starts.get(role))

    def _made(self, start: StartWeights) -> DualStreamTransformer:
        return made_network(start, self._optimiser, self._device)

    def _state(self) -> dict[str, dict[str, Shard]]:
        """What this rank holds of the whole state, by file name."""
        state = {role: engine.state() for role, engine in self._engines.items()}
        return state | {EMA_FILE: self._averages.state()}

    def _resume(self) -> None:
        manifest = self._newest_whole()
        if manifest is None:
            return
        place = self._checkpoints.place(manifest.step)
        for role, engine in self._engines.items():
            engine.restore(SavedTensors(place, role), manifest.updates[role])
        averages = SavedTensors(place, EMA_FILE)
        self._averages.restore(averages, manifest.updates[GENERATOR])
        self.steps_done = self._steps_saved = manifest.step
        LOG.info("%s resumed after step %d", self._work.stage, manifest.step)

    def _newest_whole(self) -> CheckpointManifest | None:
        """The newest checkpoint whose bits are what was written, None if there are none at all.

        CheckpointError if all are damaged: nobody means to begin anew without knowing.
        """
        damage = None
        for manifest in self._checkpoints.complete(self._recipe):
            damages: list[str | None] = [None] * self._world
            found = self._checkpoints.damage(manifest, self._rank, self._world)
            dist.all_gather_object(damages, found)
            damage = next(filter(None, damages), None)
            if damage is None:
                return manifest
            LOG.warning("%s: taking the checkpoint before it", damage)
        if damage is not None:
            raise CheckpointError(
                f"{damage}, and no other checkpoint is whole; restore it, or delete"
                f" {self._work.folder / CHECKPOINTS} to train the stage anew"
            )
        return None

    def _curve(self) -> LossCurve | None:
        if self._rank != 0:
            return None
        require_owner(self._work.fence)  # it begins the file anew
        return LossCurve(self._work.folder / CURVE_FILE, self.steps_done)

    def _manifest(self, name: str, digest: str) -> ModelManifest:
        return ModelManifest(
            name=name,
            stage=self._work.stage,
            digest=digest,
            recipe_digest=digest_of(self._recipe),
            recipe=self._recipe,
            inputs=self._work.inputs,
            commit=code_commit(),
            seed=self._optimiser.seed,
            step=self.steps_done,
            metrics=recent_means(self._work.folder / CURVE_FILE),
            versions={name: version(name) for name in LIBRARIES},
        )
