"""Ray Train: one group of workers that trains several stages, one after the other.

Starting a group takes longer than a small stage trains, so stages share it. What they learn from
each other goes through committed files: a worker waits until the stage before has published.
"""

import logging
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.claims import ActorResources
from infra.environment import environment_variables
from infra.errors import ClusterError, ConfigError
from infra.machine import GIB
from infra.machine_faults import machine_faults
from infra.stages import STAGES, TEACHER
from omniforcing_model.errors import OmniForcingError
from pipelines.training.stage_plan import ResolvedStage, StagePlan
from pipelines.training.teacher_pool import RemoteTeacher, teacher_pool

LOG = logging.getLogger(__name__)
POLL_S = 0.2


class TrainingFit:
    """Workers that go through `stages` of a plan, in the background."""

    def __init__(self, plan: StagePlan, stages: tuple[str, ...]) -> None:
        """Start the workers on the connected Ray cluster; ConfigError if it is too small."""
        _require_room(plan)
        self.stages = stages
        self._plan = plan
        self._error: BaseException | None = None
        # In a thread, so that Ctrl-C reaches the driver: Ray would turn it into a normal exit.
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def has_ended(self) -> bool:
        """Whether no worker trains any more."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until the workers have ended; raises what they raised, or ClusterError."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _train(self) -> None:
        folder = Path(self._plan.run) / ".training" / uuid.uuid4().hex[:12]
        shutil.rmtree(folder.parent, ignore_errors=True)  # of drivers that were killed
        try:
            with self._teachers() as teachers:
                self._fit_with_restarts(folder, teachers)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # raised again in `join`
            self._error = error
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _fit_with_restarts(self, folder: Path, teachers: tuple[str, ...]) -> None:
        """Run the workers, and again after they died; our own errors would only come again."""
        most = self._plan.config.cluster.training_restarts
        for restarts in range(most + 1):
            try:
                with environment_variables(_ray_train_settings(self._plan)), _quiet_ray_train():
                    self._trainer(folder / str(restarts), teachers).fit()
                return
            except TrainingFailedError as error:
                ours = _our_error(error)
                # After the driver has left Ray, a new start would start Ray again.
                ray_is_down = not ray.is_initialized()
                if ours is not None or restarts == most or ray_is_down:
                    raise ours or _as_cluster_error(error, restarts + 1) from error
                LOG.warning("training workers died and are started again: %s", _reason(error))

    def _teachers(self) -> AbstractContextManager[tuple[str, ...]]:
        """Names of the servers of the pool that stages of the group ask, where they ask one."""
        cluster = self._plan.config.cluster
        if cluster.placement.teacher == "remote" and any(map(_has_teacher, self.stages)):
            return teacher_pool(cluster.teacher_server)
        return nullcontext(())

    def _trainer(self, folder: Path, teachers: tuple[str, ...]) -> TorchTrainer:
        claim = self._plan.config.cluster.distillation_worker
        return TorchTrainer(
            train_stages,
            train_loop_config={"plan": self._plan, "stages": self.stages, "teachers": teachers},
            torch_config=TorchConfig(backend="nccl" if claim.gpus else "gloo"),
            scaling_config=scaling_of(claim),
            run_config=RunConfig(
                name="training",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=0),
            ),
        )


def scaling_of(claim: ActorResources) -> ScalingConfig:
    """How many workers Ray Train starts, and what each claims."""
    return ScalingConfig(
        num_workers=claim.replicas, use_gpu=claim.gpus > 0, resources_per_worker=claim.ray_bundle
    )


def train_stages(loop: dict[str, Any]) -> None:
    """What each worker runs: the stages of its group, one after the other.

    `teachers`: names of the servers that it asks for the real score; without any it holds its own.
    MachineError where a disk is full or the like: another start would only meet it again.
    """
    plan: StagePlan = loop["plan"]
    with machine_faults(plan.run):
        for name in loop["stages"]:
            if STAGES[name].is_trained:
                made = _train_stage(plan, name, loop["teachers"])
            else:
                made = _await_stage(plan, name)
            plan = plan.with_result(made)


def _train_stage(plan: StagePlan, name: str, teachers: tuple[str, ...]) -> ResolvedStage:
    """The stage with its model, trained now if there is none."""
    stage = plan.resolve(name)
    if stage.result is not None:
        return stage
    assert isinstance(stage.work, StageWork), f"workers train {name}"
    gpus = plan.config.cluster.distillation_worker.gpus
    device = str(get_device()) if gpus else "cpu"
    with _remote_teacher(stage.work, teachers) as teacher:
        worker = DistillationWorker(stage.work, device, teacher)
        try:
            if teacher is not None:
                teacher.wait_until_loaded()  # as long as the worker has loaded its own models
            worker.run()
        finally:
            worker.close()
    return plan.resolve(name)


@contextmanager
def _remote_teacher(work: StageWork, names: tuple[str, ...]) -> Iterator[RemoteTeacher | None]:
    """The stage's teacher, where it is elsewhere."""
    if not (names and _has_teacher(work.stage)):
        yield None
        return
    teacher = RemoteTeacher(names, work, ray.train.get_context().get_world_rank())
    try:
        yield teacher
    finally:
        teacher.close()


def _has_teacher(stage: str) -> bool:
    return TEACHER in STAGES[stage].frozen


def _await_stage(plan: StagePlan, name: str) -> ResolvedStage:
    """The stage that the driver makes meanwhile; if the driver ends, so does this process."""
    while (stage := plan.resolve(name)).result is None:
        time.sleep(POLL_S)
    return stage


def fits_beside(plan: StagePlan) -> bool:
    """Whether the cluster holds all that trains and the trajectory samplers together."""
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needed = Counter({"CPU": 1.0})  # for Ray Data's tasks
    for claim in (*_training_claims(plan).values(), plan.config.cluster.teacher_sampler):
        needed.update({name: claim.replicas * n for name, n in claim.ray_bundle.items()})
    return all(amount <= has.get(name, 0) for name, amount in needed.items())


def training_groups(stages: tuple[str, ...], beside: bool) -> list[tuple[str, ...]]:
    """Stages that a group of workers goes through, in order: trained by it, or waited for.

    With `beside` it is one group, which waits for trajectories; otherwise the workers make room
    while these are made.
    """
    groups, group = [], list[str]()
    for stage in stages:
        if STAGES[stage].is_trained or beside:
            group.append(stage)
        else:
            groups.append(group)
            group = []
    trained = [_cut_after_last_trained(group) for group in (*groups, group)]
    return [group for group in trained if group]


def _cut_after_last_trained(stages: list[str]) -> tuple[str, ...]:
    counts = [count for count, stage in enumerate(stages, start=1) if STAGES[stage].is_trained]
    return tuple(stages[: counts[-1]]) if counts else ()


def _cluster_memory_gib() -> float:
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return has.get("memory", 0) / GIB


def _require_room(plan: StagePlan) -> None:
    """A local cluster never grows: Ray would wait for ever."""
    cluster = plan.config.cluster
    claims = _training_claims(plan)
    if cluster.address is not None:
        return
    who = " and ".join(f"{claim.replicas} {name}s" for name, claim in claims.items())
    lower = " or ".join(f"cluster.{name.replace(' ', '_')}" for name in claims)
    needed, has = sum(claim.replicas * claim.cpus for claim in claims.values()), cluster.local_cpus
    if needed > has:
        raise ConfigError(
            f"expected a cluster with {needed:g} CPUs for {who}, got {has}; lower {lower} or raise"
            " cluster.local_cpus (logical)"
        )
    needed_gib = sum(claim.replicas * claim.memory_gib for claim in claims.values())
    has_gib = _cluster_memory_gib()
    if needed_gib > has_gib:
        raise ConfigError(
            f"expected a cluster with {needed_gib:g} GiB for {who}, got {has_gib:.1f}; lower"
            f" memory_gib or replicas of {lower}"
        )


def _training_claims(plan: StagePlan) -> dict[str, ActorResources]:
    """What runs while stages train, by what it is called."""
    cluster = plan.config.cluster
    claims: dict[str, ActorResources] = {"distillation worker": cluster.distillation_worker}
    if cluster.placement.teacher == "remote" and any(map(_has_teacher, plan.stages)):
        claims["teacher server"] = cluster.teacher_server
    return claims


def _our_error(error: TrainingFailedError) -> OmniForcingError | None:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    ours = [failure for failure in failures.values() if isinstance(failure, OmniForcingError)]
    return ours[0] if ours else None


def _as_cluster_error(error: TrainingFailedError, starts: int) -> ClusterError:
    return ClusterError(
        f"expected the workers to train to the end, but they died {starts} times:"
        f" {_reason(error)}; run the same command again to resume from the newest checkpoint"
    )


def _reason(error: TrainingFailedError) -> str:
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    return " ".join(str(failures[0]).strip().splitlines()[-1:])


def _ray_train_settings(plan: StagePlan) -> dict[str, str]:
    """Variables, the only settings that Ray Train passes on to its own processes."""
    settings = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the end is noticed at once
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
    }
    if plan.config.cluster.address is None:
        settings["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # nobody takes this machine away
    return settings


@contextmanager
def _quiet_ray_train() -> Iterator[None]:
    logger = logging.getLogger("ray.train")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
