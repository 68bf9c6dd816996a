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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from actors.training.distillation_worker import DistillationWorker, StageWork
from actors.training.ranks import any_rank
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
STOP_FILE = "stop"
# So long workers have for the step that they are in and for its checkpoint: hundreds of GB at size.
STOP_PATIENCE_S = 600.0


class TrainingFit:
    """Workers that go through `stages` of a plan, in the background."""

    def __init__(self, plan: StagePlan, stages: tuple[str, ...]) -> None:
        """Start the workers on the connected Ray cluster; ConfigError if it is too small."""
        _require_room(plan)
        self.stages = stages
        self._plan = plan
        self._error: BaseException | None = None
        self._folder = Path(plan.run) / ".training" / uuid.uuid4().hex[:12]
        self._stop_file = self._folder / STOP_FILE
        shutil.rmtree(self._folder.parent, ignore_errors=True)  # of drivers that were killed
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

    def stop(self) -> None:
        """Let the workers save the step that they have come to, and wait until they have ended.

        A file asks them, which reaches every machine of the cluster as the checkpoints do.
        """
        if self.has_ended():
            return
        LOG.info("stopping after the step that is under way; a second signal stops at once")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stop_file.touch()
        except OSError as error:
            LOG.warning("the step that is under way is not saved: %s", error)
            return
        self._thread.join(STOP_PATIENCE_S)
        if not self.has_ended():
            LOG.warning("the workers are given up, %.0f s after they were asked", STOP_PATIENCE_S)
        elif self._error is not None:
            LOG.warning("the workers ended by an error: %s", self._error)

    def _train(self) -> None:
        try:
            with self._teachers() as teachers:
                self._fit_with_restarts(teachers)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # raised again in `join`
            self._error = error
        finally:
            shutil.rmtree(self._folder.parent, ignore_errors=True)

    def _fit_with_restarts(self, teachers: tuple[str, ...]) -> None:
        """Run the workers, and again after they died; our own errors would only come again."""
        most = self._plan.config.cluster.training_restarts
        for restarts in range(most + 1):
            try:
                with environment_variables(_ray_train_settings(self._plan)), _quiet_ray_train():
                    self._trainer(self._folder / str(restarts), teachers).fit()
                return
            except TrainingFailedError as error:
                ours = _our_error(error)
                # After the driver has left Ray, a new start would start Ray again.
                is_over = self._stop_file.exists() or not ray.is_initialized()
                if ours is not None or restarts == most or is_over:
                    raise ours or _as_cluster_error(error, restarts + 1) from error
                LOG.warning("training workers died and are started again: %s", _reason(error))

    def _teachers(self) -> AbstractContextManager[tuple[str, ...]]:
        """Names of the servers of the pool that stages of the group ask, where they ask one."""
        cluster = self._plan.config.cluster
        if cluster.placement.teacher == "remote" and _need_teachers(self._plan, self.stages):
            return teacher_pool(cluster.teacher_server)
        return nullcontext(())

    def _trainer(self, folder: Path, teachers: tuple[str, ...]) -> TorchTrainer:
        claim = self._plan.config.cluster.distillation_worker
        return TorchTrainer(
            train_stages,
            train_loop_config={
                "plan": self._plan,
                "stages": self.stages,
                "teachers": teachers,
                "stop_file": str(self._stop_file),
            },
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
    `stop_file`: once it is there, the workers save the step that they have come to, and end.
    MachineError where a disk is full or the like: another start would only meet it again.
    """
    plan: StagePlan = loop["plan"]
    is_asked_to_stop = Path(loop["stop_file"]).exists
    device = str(get_device()) if plan.config.cluster.distillation_worker.gpus else "cpu"
    with machine_faults(plan.run):
        for name in loop["stages"]:
            stage = _resolve_or_await(plan, name, is_asked_to_stop)
            # All leave at the same place: none waits in a collective for one that has ended.
            if any_rank(is_asked_to_stop(), device):
                return
            if stage.result is None:
                if not _train_stage(stage, device, loop["teachers"], is_asked_to_stop):
                    return
                stage = plan.resolve(name)
            plan = plan.with_result(stage)


def _train_stage(
    stage: ResolvedStage,
    device: str,
    teachers: tuple[str, ...],
    is_asked_to_stop: Callable[[], bool],
) -> bool:
    """Train a stage that has no model; whether it has one then."""
    assert isinstance(stage.work, StageWork), f"workers train {stage.name}"
    with _remote_teacher(stage.work, teachers) as teacher:
        worker = DistillationWorker(stage.work, device, teacher)
        try:
            if teacher is not None:
                teacher.wait_until_loaded()  # as long as the worker has loaded its own models
            return worker.run(is_asked_to_stop=is_asked_to_stop)
        finally:
            worker.close()


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


def _need_teachers(plan: StagePlan, stages: tuple[str, ...]) -> bool:
    return any(_has_teacher(stage) and not plan.is_link(stage) for stage in stages)


def _resolve_or_await(
    plan: StagePlan, name: str, is_asked_to_stop: Callable[[], bool]
) -> ResolvedStage:
    """The stage; of one that the driver makes, with its result, unless it stops meanwhile.

    If the driver ends, so does this process.
    """
    while (stage := plan.resolve(name)).result is None:
        if (STAGES[name].is_trained and not plan.is_link(name)) or is_asked_to_stop():
            break
        time.sleep(POLL_S)
    return stage


def fits_beside(plan: StagePlan) -> bool:
    """Whether the cluster holds all that trains and the trajectory samplers together."""
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needed = Counter({"CPU": 1.0})  # for Ray Data's tasks
    sampler = plan.config.cluster.teacher_sampler
    counted = [(claim, claim.replicas) for claim in _training_claims(plan).values()]
    for claim, count in (*counted, (sampler, sampler.replicas * sampler.processes)):
        needed.update({name: count * n for name, n in claim.ray_bundle.items()})
    return all(amount <= has.get(name, 0) for name, amount in needed.items())


def training_groups(plan: StagePlan, beside: bool) -> list[tuple[str, ...]]:
    """Stages of `plan` that a group of workers goes through, in order: trained or waited for.

    With `beside` it is one group, which waits for trajectories; otherwise the workers make room
    while these are made.
    """
    groups, group = [], list[str]()
    for stage in plan.pending:
        if STAGES[stage].is_trained or beside:
            group.append(stage)
        else:
            groups.append(group)
            group = []
    trained = [_cut_after_last_trained(plan, group) for group in (*groups, group)]
    return [group for group in trained if group]


def _cut_after_last_trained(plan: StagePlan, stages: list[str]) -> tuple[str, ...]:
    numbered = enumerate(stages, start=1)
    counts = [n for n, stage in numbered if STAGES[stage].is_trained and not plan.is_link(stage)]
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
    if cluster.placement.teacher == "remote" and _need_teachers(plan, plan.stages):
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
