"""What counts as worse: growth beyond the noise of a loss, or beyond what samples explain."""

import random

import pytest

from infra.runs.loss_curve import LossCurve
from pipelines.training.candidates import worsening
from pipelines.training.stage_plan import make_plan
from tests.worlds.training import small_run, write_clips, write_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    return write_clips(small_run(), folder / "clips"), write_model(small_run(), folder / "model")


@pytest.fixture
def judged(world, tmp_path):
    """What is said of a stage whose loss has these values."""

    def judge(stage, figure, values):
        clips, model = world
        plan = make_plan(small_run(), clips, str(tmp_path), (stage,), _start(stage, model))
        resolved = plan.resolve(stage)
        curve = LossCurve(resolved.work.folder / "curve.jsonl", 0)
        for step, value in enumerate(values, start=1):
            curve.append(step, {figure: value})
        curve.close()
        return worsening(resolved)

    return judge


def _start(stage, model):
    return {} if stage == "teacher" else {"generator": model, "teacher": model}


def noisy(mean, steps, seed=0, noise=0.3):
    chance = random.Random(f"{mean} {seed}")
    return [mean * (1 + noise * chance.uniform(-1, 1)) for _ in range(steps)]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_worsening(judged, seed):
    assert judged("teacher", "generator_loss", noisy(1.0, 100, seed)) is None


def test_a_loss_that_rises_beyond_its_noise_is_worse(judged):
    said = judged("teacher", "generator_loss", noisy(1.0, 60) + noisy(1.3, 60))
    assert "in the first 50 steps that have it" in said


@pytest.mark.parametrize(("end", "is_worse"), [(1.9, False), (2.1, True)])
def test_in_a_few_steps_a_loss_may_grow_twofold(judged, end, is_worse):
    assert (judged("teacher", "generator_loss", [1.0, 1.0, end, end]) is not None) == is_worse


@pytest.mark.parametrize(("end", "is_worse"), [(9.0, False), (11.0, True)])
def test_a_critic_follows_its_student_but_not_out_of_bounds(judged, end, is_worse):
    said = judged("stage_3", "critic_loss", [1.0] * 60 + [end] * 60)
    assert (said is not None) == is_worse


def test_the_loss_of_dmd_begins_at_nothing_and_may_grow(judged):
    assert judged("stage_1", "generator_loss", [0.0002] * 20 + [1.0] * 20) is None


@pytest.mark.parametrize("steps", [0, 1])
def test_a_curve_that_tells_nothing_speaks_against_nothing(judged, steps):
    assert judged("teacher", "generator_loss", [5.0] * steps) is None
