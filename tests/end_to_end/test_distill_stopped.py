"""A run that is asked to stop: what it has trained is saved, and the same command goes on there."""

import re
import signal

import psutil
import pytest

from infra.runs.loss_curve import read_curve
from tests.worlds.distill_runs import digest_in, run_here, started
from tests.worlds.preprocessing import processes
from tests.worlds.training import small_run, write_clips

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STEPS = 60
AT_ONCE_S = 30
RARE = "stages.teacher.optimiser.checkpoint_every=100000"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("distill") / "clips")


def curve_of(run):
    return read_curve(run / "stages" / "teacher" / "curve.jsonl")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.kills),
    ],
)
def test_a_stopped_run_saves_its_step_and_ends_like_a_straight_one(
    ray_local, clips, tmp_path, number
):
    run, config = tmp_path / "run", small_run(RARE, steps=STEPS)
    with started(config, clips, run, lambda: len(curve_of(run)) >= 3) as (driver, tag):
        driver.send_signal(number)
        _, said = driver.communicate(timeout=120)
        assert driver.returncode == 128 + number
        assert processes("", tag=tag) == []
    done = len(curve_of(run))
    assert done < STEPS
    assert [path.name for path in run.glob("stages/teacher/checkpoints/*")] == [f"step_{done:06d}"]
    assert f"teacher is saved after step {done} of {STEPS}; the same command goes on" in said
    assert not (run / ".training").exists()
    run_here(config, clips, run)
    straight = tmp_path / "straight"
    run_here(config, clips, straight)
    assert digest_in(run) == digest_in(straight)
    assert curve_of(run) == curve_of(straight)


@pytest.mark.kills
def test_a_second_signal_does_not_wait_for_workers(clips, tmp_path):
    run, config = tmp_path / "run", small_run(RARE, steps=100_000)
    with started(config, clips, run, lambda: len(curve_of(run)) >= 3) as (driver, tag):
        for pid in processes("RayTrainWorker", tag=tag):
            psutil.Process(pid).suspend()
        driver.send_signal(signal.SIGTERM)
        for line in driver.stderr:
            if re.search("a second signal stops at once", line):
                break
        driver.send_signal(signal.SIGTERM)
        driver.wait(timeout=AT_ONCE_S)
        assert driver.returncode == 128 + signal.SIGTERM
        assert processes("", tag=tag) == []
    assert not list(run.glob("stages/teacher/checkpoints/step_*"))
