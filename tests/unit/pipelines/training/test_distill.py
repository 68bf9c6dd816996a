"""All stages on Ray with two workers, on a model of one layer: what is left behind, and reruns."""

import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from actors.training.distillation_worker import DistillationWorker
from actors.training.teacher_sampler import TeacherSampler, TrajectoryWork
from infra.errors import CheckpointError, ConfigError
from infra.runs.loss_curve import read_curve
from infra.runs.tracking import RunIndex
from infra.terminal.progress import SilentProgress
from omniforcing_model.errors import DivergenceError
from omniforcing_model.weights.checkpoint_files import load_model
from pipelines.lineage.lineage import lineage
from pipelines.training.distill import distill
from pipelines.training.stage_plan import make_plan
from tests.worlds.training import CLIPS, STAGES, small_run, write_clips

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STEPS = 4


class NotedProgress:
    """Takes note of what a terminal would show."""

    def __init__(self):
        self.stages = {}

    @contextmanager
    def stage(self, name, total):
        noted = self.stages[name] = {"total": total, "done": 0, "figures": set()}

        class Bar:
            def advance(self, n=1, **figures):
                noted["done"] += n
                noted["figures"] |= figures.keys()

        yield Bar()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("distill") / "clips")


@pytest.fixture(scope="module")
def finished(ray_local, clips, tmp_path_factory):
    """A run of all stages: its folder, its summary and what its progress showed."""
    run, progress = tmp_path_factory.mktemp("distill") / "run", NotedProgress()
    (run / ".training" / "of-a-driver-that-was-killed").mkdir(parents=True)
    summary = distill(small_run(steps=STEPS), clips, str(run), STAGES, {}, progress)
    return run, summary, progress.stages


@pytest.fixture(scope="module")
def manifests_read():
    """A context that counts, by path, how often this process opens manifests of any kind."""
    counters = []

    def count(event, arguments):
        path = arguments[0] if event == "open" else None
        if counters and isinstance(path, str) and path.endswith("/manifest.json"):
            counters[-1][path] += 1

    sys.addaudithook(count)  # it stays, and counts only within the context

    @contextmanager
    def counting():
        counters.append(Counter())
        try:
            yield counters[-1]
        finally:
            counters.pop()

    return counting


def stages_of(plan):
    """Names and resolved stages of a plan, up to the first without a result."""
    for name in plan.stages:
        stage = plan.resolve(name)
        yield name, stage
        if stage.result is None:
            return
        plan = plan.with_result(stage)


def same_bits(one, other):
    files = [Path(folder) / "model.safetensors" for folder in (one, other)]
    return files[0].read_bytes() == files[1].read_bytes()


def test_every_stage_leaves_a_model_and_a_curve(finished):
    run, summary, _ = finished
    assert [stage.stage for stage in summary.stages if stage.made_now] == [
        "teacher",
        "stage_1",
        "trajectories",
        "stage_2",
        "stage_3",
    ]
    for stage in STAGES:
        load_model(run / "stages" / stage / "model")
        curve = read_curve(run / "stages" / stage / "curve.jsonl")
        assert [figures["step"] for figures in curve] == list(range(1, STEPS + 1))
    assert summary.model == str(run / "stages" / "stage_3" / "model")
    assert not (run / ".training").exists()


def test_progress_shows_every_step_with_its_losses(finished):
    _, _, shown = finished
    assert {stage: (bar["done"], bar["total"]) for stage, bar in shown.items()} == {
        "teacher": (4, 4),
        "stage_1": (4, 4),
        "trajectories": (8, 8),
        "stage_2": (4, 4),
        "stage_3": (4, 4),
    }
    assert shown["stage_3"]["figures"] == {"generator_loss", "critic_loss"}


def test_lineage_reaches_every_clip_through_mlflow_and_through_the_folders(finished):
    _, summary, _ = finished
    by_folder = lineage(summary.model)
    by_registry = lineage("models:/tiny-stage_3@candidate", summary.tracking)
    for nodes in (by_folder, by_registry):
        names = [node.name for node in nodes if node.kind in ("model", "trajectories")]
        assert sorted(names) == [
            "tiny-stage_1",
            "tiny-stage_2",
            "tiny-stage_3",
            "tiny-teacher",
            "trajectories",
        ]
        assert len([node for node in nodes if node.kind == "clip"]) == CLIPS
        known = {node.digest for node in nodes}
        assert all(digest in known for node in nodes for digest in node.inputs)
        assert all(node.digest.startswith("sha256:") for node in nodes)
        assert all(node.config_digest and node.commit for node in nodes if node.kind == "model")
    assert [node.digest for node in by_folder] == [node.digest for node in by_registry]
    assert all(node.run for node in by_registry if node.kind in ("model", "dataset"))


def test_every_result_is_known_to_mlflow_by_its_digest(finished):
    _, summary, _ = finished
    index = RunIndex(summary.tracking)
    assert all(index.producer(stage.digest) is not None for stage in summary.stages)


def test_a_rerun_makes_nothing(finished, clips):
    run, summary, _ = finished
    again = distill(small_run(steps=STEPS), clips, str(run), STAGES, {}, SilentProgress())
    assert not any(stage.made_now for stage in again.stages)
    assert [stage.digest for stage in again.stages] == [stage.digest for stage in summary.stages]


def test_a_rerun_reads_each_manifest_once(finished, clips, manifests_read):
    run, _, _ = finished
    with manifests_read() as files:
        distill(small_run(steps=STEPS), clips, str(run), STAGES, {}, SilentProgress())
    models = [run / "stages" / stage / "model" for stage in STAGES]
    folders = [Path(clips), run / "trajectories", *models]
    assert files == {str(folder / "manifest.json"): 1 for folder in folders}


def test_a_changed_configuration_is_refused_with_the_key(finished, clips):
    run, _, _ = finished
    changed = small_run("stages.stage_3.guidance_audio=3.0", steps=STEPS)
    with pytest.raises(CheckpointError, match=r"settings\.guidance_audio: 2\.0 -> 3\.0"):
        distill(changed, clips, str(run), STAGES, {}, SilentProgress())


def test_one_worker_trains_what_two_train(finished, clips, tmp_path):
    run, _, _ = finished
    plan = make_plan(small_run(steps=STEPS), clips, str(run), STAGES, {})
    for stage, resolved in stages_of(plan):
        if stage not in STAGES:
            continue
        alone = DistillationWorker(replace(resolved.work, run_folder=str(tmp_path)))
        alone.run()
        alone.close()
        two = load_file(run / "stages" / stage / "model" / "model.safetensors")
        one = load_file(tmp_path / "stages" / stage / "model" / "model.safetensors")
        for name, tensor in two.items():
            torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_workers_that_ask_a_pool_of_teachers_train_the_same_students(finished, clips, tmp_path):
    run, _, _ = finished
    pool = ("cluster.placement.teacher=remote", "cluster.teacher_server.replicas=2")
    distill(small_run(*pool, steps=STEPS), clips, str(tmp_path), STAGES, {}, SilentProgress())
    for stage in ("stage_1", "stage_3"):
        assert same_bits(*(folder / "stages" / stage / "model" for folder in (run, tmp_path)))


def test_one_worker_goes_on_where_two_were_stopped(finished, clips, tmp_path):
    run, _, _ = finished
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    stage = stopped / "stages" / "stage_1"
    shutil.rmtree(stage / "model")
    (stage / "checkpoints" / "step_000004" / "manifest.json").unlink()
    plan = make_plan(small_run(steps=STEPS), clips, str(stopped), STAGES, {})
    alone = DistillationWorker(dict(stages_of(plan))["stage_1"].work)
    assert alone.steps_done == 2
    alone.run()
    alone.close()
    one, two = (load_file(r / "stages/stage_1/model/model.safetensors") for r in (stopped, run))
    for name, tensor in two.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_trajectories_are_those_of_a_plain_loop(finished, clips, tmp_path):
    run, _, _ = finished
    model = str(run / "stages" / "stage_1" / "model")
    sampler = TeacherSampler(TrajectoryWork(small_run(), model, clips, str(tmp_path)))
    for number in range(2):
        sampler.write(number)
    loop, job = (_rows_of(folder) for folder in (tmp_path, run / "trajectories"))
    assert loop.keys() == job.keys()
    for row_id, states in loop.items():
        # Not bit for bit: the matrix library's last digit depends on where memory happens to lie.
        for ours, theirs in zip(states, job[row_id], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def _rows_of(folder):
    """Video and audio states by row, of every shard below `folder`."""
    columns = ["row_id", "video_states", "audio_states"]
    rows = {}
    for shard in folder.rglob("*.parquet"):
        table = pq.read_table(shard, columns=columns)
        for row_id, *states in zip(*(table[name] for name in columns), strict=True):
            rows[row_id.as_py()] = [np.asarray(state.as_py(), dtype=np.float32) for state in states]
    return rows


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_changes_nothing(finished, clips, tmp_path):
    run, _, _ = finished
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "stages" / "stage_3")
    killer = threading.Thread(target=_kill_a_worker_after_a_checkpoint, args=(again,))
    killer.start()
    summary = distill(small_run(steps=STEPS), clips, str(again), STAGES, {}, SilentProgress())
    killer.join()
    assert [stage.stage for stage in summary.stages if stage.made_now] == ["stage_3"]
    assert same_bits(again / "stages/stage_3/model", run / "stages/stage_3/model")
    steps = [figures["step"] for figures in read_curve(again / "stages/stage_3/curve.jsonl")]
    assert steps == list(range(1, STEPS + 1))


def _kill_a_worker_after_a_checkpoint(run):
    mark = run / "stages" / "stage_3" / "checkpoints" / "step_000002" / "manifest.json"
    while not mark.exists():
        time.sleep(0.01)
    os.kill(min(_train_workers()), signal.SIGKILL)


def _train_workers():
    """Processes of the training group, among the descendants of this one."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            workers += [process.pid] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return workers


def test_a_stage_without_steps_in_the_middle_is_waited_for_and_hands_its_start_on(
    ray_local, clips, tmp_path
):
    short = ("stages.stage_1.optimiser.steps=0", "stages.teacher.optimiser.steps=2")
    config = small_run(*short, steps=STEPS)
    stages = ("teacher", "stage_1", "stage_2")
    summary = distill(config, clips, str(tmp_path / "run"), stages, {}, SilentProgress())
    assert [stage.stage for stage in summary.stages if stage.made_now] == [
        "teacher",
        "stage_1",
        "trajectories",
        "stage_2",
    ]
    teacher, link, *_ = summary.stages
    assert link.digest == teacher.digest
    kinds = Counter(node.kind for node in lineage(summary.model))
    assert (kinds["model"], kinds["clip"]) == (2, CLIPS)  # the link is the teacher itself


def test_a_stage_that_diverges_ends_the_run_by_name(ray_local, clips, tmp_path):
    wild = small_run("stages.teacher.optimiser.learning_rate=1e30", steps=STEPS)
    with pytest.raises(DivergenceError, match=r"teacher, step \d, generator: .*NaN or infinity"):
        distill(wild, clips, str(tmp_path / "run"), ("teacher",), {}, SilentProgress())


def test_workers_that_no_local_cluster_holds_are_refused(ray_local, clips, tmp_path):
    many = small_run("cluster.distillation_worker.replicas=99")
    with pytest.raises(ConfigError, match=r"99 distillation workers, got 8"):
        distill(many, clips, str(tmp_path / "run"), ("teacher",), {}, SilentProgress())
    large = small_run("cluster.distillation_worker.memory_gib=99999")
    with pytest.raises(ConfigError, match=r"expected a cluster with 199998 GiB for 2"):
        distill(large, clips, str(tmp_path / "run"), ("teacher",), {}, SilentProgress())
