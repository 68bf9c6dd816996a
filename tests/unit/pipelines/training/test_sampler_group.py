"""Trajectories of a sampler that is two processes: those of one, also when a process is lost."""

import os
import signal
import time
from contextlib import suppress
from threading import Thread

import psutil
import pytest

from infra.dataset.manifest import read_manifest
from infra.errors import CheckpointError, ConfigError
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.training.sampler_group import SamplerGroup
from pipelines.training.stage_plan import make_plan
from pipelines.training.trajectories import make_teacher_trajectories
from tests.worlds.training import small_run, write_clips, write_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
# Two shards, of three batches and one; a batch takes seconds.
ROWS = tuple(f"stages.trajectories.{key}" for key in ("count=8", "batch=2", "rows_per_shard=6"))
GUIDED = ("stages.trajectories.guided=true", "sampling.teacher_steps=40")


@pytest.fixture
def stage(tmp_path):
    def of(processes, run="run"):
        own = f"cluster.teacher_sampler.processes={processes}"
        config = small_run(own, *ROWS, *GUIDED)
        clips, model = tmp_path / "clips", tmp_path / "model"
        if not clips.exists():
            write_clips(config, clips)
            write_model(config, model)
        start = {"generator": str(model)}
        plan = make_plan(config, str(clips), str(tmp_path / run), ("trajectories",), start)
        return plan.resolve("trajectories")

    return of


def sampling():
    """Processes of a group that make a shard now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("SamplerRank.write" in word for word in process.cmdline()):
                found.append(process)
    return found


class OneIsKilled(Thread):
    """Waits until both processes of a group make a shard, and kills one of them over it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.killed = []

    def run(self):
        while not self.killed:
            time.sleep(0.01)
            processes = sampling()
            if len(processes) < 2:
                continue
            last = max(processes, key=lambda process: process.pid)
            os.kill(last.pid, signal.SIGSTOP)  # it answers nothing more
            if last in sampling():
                self.killed.append(last)
            os.kill(last.pid, signal.SIGKILL if self.killed else signal.SIGCONT)


@pytest.mark.slow
def test_a_group_of_two_makes_what_one_process_makes_also_after_one_of_them_is_killed(
    ray_local, stage
):
    alone = make_teacher_trajectories(stage(1, "alone"), SilentProgress())
    killer = OneIsKilled()
    killer.start()
    several = stage(2)
    together = make_teacher_trajectories(several, SilentProgress())
    assert len(killer.killed) == 1
    assert (together.digest, together.shards) == (alone.digest, alone.shards)
    assert read_manifest(ObjectStore(several.folder)) == together
    assert not sampling()


def test_what_a_process_of_a_group_refuses_is_told_as_it_is(ray_local, stage, tmp_path):
    several = stage(2)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"without model\.safetensors"):
        SamplerGroup(several.work)


def test_a_sampler_that_a_local_cluster_never_holds_is_refused(stage):
    with pytest.raises(ConfigError, match=r"9 CPUs for a sampler of 9 processes, got 8; lower"):
        make_teacher_trajectories(stage(9), SilentProgress())
