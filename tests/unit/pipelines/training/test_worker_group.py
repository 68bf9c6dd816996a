"""How many training workers there are, and what each claims."""

import re
import resource
import threading

import pytest

from infra.errors import ConfigError, MachineError
from infra.presets import load_preset
from pipelines.training.stage_plan import Artifact, StagePlan, make_plan
from pipelines.training.worker_group import POLL_S, TrainingFit, scaling_of, train_stages
from tests.worlds.training import small_run, write_clips, write_model


def test_training_workers_claim_what_the_configuration_says() -> None:
    overrides = [
        "cluster.distillation_worker={replicas: 3, cpus: 2, gpus: 0.5, memory_gib: 4}",
    ]
    scaling = scaling_of(load_preset("tiny", overrides).cluster.distillation_worker)
    assert (scaling.num_workers, scaling.use_gpu) == (3, True)
    assert scaling.resources_per_worker == {"CPU": 2, "GPU": 0.5, "memory": 4 * 2**30}


def test_training_workers_without_a_gpu_run_on_the_cpu() -> None:
    assert not scaling_of(load_preset("tiny").cluster.distillation_worker).use_gpu


@pytest.mark.ray
@pytest.mark.parametrize(
    ("claim", "refusal"),
    [
        ("cpus=5", "expected a cluster with 10 CPUs for 2 distillation workers, got 8;"),
        ("memory_gib=900", "expected a cluster with 1800 GiB for 2 distillation workers, got "),
    ],
)
def test_workers_that_a_local_cluster_never_holds_are_refused(ray_local, claim, refusal) -> None:
    config = load_preset("tiny", [f"cluster.distillation_worker.{claim}"])
    dataset = Artifact("clips", "clips", "sha256:0")
    plan = StagePlan(config, "run", dataset, None, ("teacher",), start={}, results={})
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        TrainingFit(plan, ("teacher",))


def loop_of(plan, folder):
    """What Ray Train hands to a worker that nobody has asked to stop."""
    stop_file = str(folder / "stop")
    return {"plan": plan, "stages": plan.stages, "teachers": (), "stop_file": stop_file}


def test_a_worker_that_is_asked_to_stop_before_its_stage_loads_nothing(tmp_path) -> None:
    clips = write_clips(small_run(), tmp_path / "clips")
    plan = make_plan(small_run(), clips, str(tmp_path / "run"), ("teacher",), {})
    (tmp_path / "stop").touch()
    train_stages(loop_of(plan, tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_worker_that_waits_for_a_stage_of_the_driver_ends_with_it(tmp_path) -> None:
    clips = write_clips(small_run(), tmp_path / "clips")
    start = {"teacher": write_model(small_run(), tmp_path / "model")}
    stages = ("trajectories", "stage_2")
    plan = make_plan(
        small_run(), clips, str(tmp_path / "run"), stages, start | {"generator": start["teacher"]}
    )
    worker = threading.Thread(target=train_stages, args=(loop_of(plan, tmp_path),), daemon=True)
    worker.start()
    worker.join(2 * POLL_S)
    assert worker.is_alive()
    (tmp_path / "stop").touch()
    worker.join(60)
    assert not worker.is_alive()


def test_a_worker_without_room_for_a_checkpoint_says_so_and_is_not_started_again(tmp_path) -> None:
    """Of errors that are ours a group of workers makes no second attempt."""
    clips = write_clips(small_run(), tmp_path / "clips")
    plan = make_plan(small_run(), clips, str(tmp_path / "run"), ("teacher",), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(MachineError, match=r"expected room to write .*free space there"):
            train_stages(loop_of(plan, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints = tmp_path / "run" / "stages" / "teacher" / "checkpoints"
    assert not list(checkpoints.rglob("manifest.json"))
