from collections import Counter
from statistics import fmean

import pytest

from actors.training.distillation_worker import DistillationWorker, StageWork
from actors.training.stage_objectives import stage_objective
from infra.errors import ConfigError
from infra.presets import load_preset
from infra.stages import CRITIC, GENERATOR, TEACHER
from omniforcing_model.per_stream import PerStream
from tests.worlds.training import small_run, write_clips, write_model, write_trajectories


def test_scores_are_compared_at_the_sigmas_of_the_papers_clamped_schedule():
    stage = stage_objective(load_preset("tiny"), "stage_3")
    levels = stage.rule.noise_levels
    assert len(levels) == 1000
    assert (min(levels), max(levels)) == pytest.approx((0.217112, 0.997623), abs=1e-6)
    counts = Counter(levels)
    assert counts[min(levels)] == 21  # 0 .. 20, all clamped to 20
    assert counts[max(levels)] == 20  # 980 .. 999


def test_without_a_shift_clips_of_another_size_are_noised_by_their_own_tokens():
    larger, by_tokens = "data.buckets=[{height: 128, width: 128}]", "sampling.schedule_shift=null"
    rule = stage_objective(load_preset("tiny", [larger, by_tokens]), "stage_3").rule
    of_its_own = load_preset("tiny", ["data.height=128", "data.width=128", by_tokens])
    assert rule.levels_by_grid == {(4, 4): stage_objective(of_its_own, "stage_3").rule.noise_levels}
    assert rule.levels_by_grid[4, 4] != rule.noise_levels
    assert stage_objective(load_preset("tiny", [larger]), "stage_3").rule.levels_by_grid == {}


def test_each_matching_stage_has_its_own_guidance_and_weights():
    config = load_preset(
        "tiny", ["stages.stage_1.guidance_audio=5.0", "stages.stage_3.audio_weight=3"]
    )
    one, three = (stage_objective(config, name).rule for name in ("stage_1", "stage_3"))
    assert one.guidance == PerStream(2.0, 5.0)
    assert three.guidance == PerStream(2.0, 2.0)
    assert (one.audio_weight, three.audio_weight) == (1.0, 3.0)
    assert one.student_sigmas == config.sampling.student_sigmas


# Of each stage the loss of what is learned by regression, and its rate. The loss of a generator
# beside a critic need not fall: the critic follows it.
REGRESSIONS = {
    "teacher": ("generator_loss", "optimiser.learning_rate"),
    "stage_1": ("critic_loss", "critic_learning_rate"),
    "stage_2": ("generator_loss", "optimiser.learning_rate"),
    "stage_3": ("critic_loss", "critic_learning_rate"),
}
STEPS = 40


@pytest.mark.parametrize("stage", REGRESSIONS)
def test_the_loss_of_a_stage_falls(tmp_path, stage):
    loss, rate = REGRESSIONS[stage]
    config = small_run(f"stages.{stage}.{rate}=1.0e-2", steps=STEPS, batch=8, micro_batch=8)
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, tmp_path / "rows")
    model = write_model(config, tmp_path / "model")
    starts = {} if stage == "teacher" else dict.fromkeys((GENERATOR, CRITIC, TEACHER), model)
    worker = DistillationWorker(StageWork(stage, config, str(tmp_path / "run"), data, starts, ()))
    losses = [worker.step()[loss] for _ in range(STEPS)]
    worker.close()
    quarter = STEPS // 4
    assert fmean(losses[-quarter:]) < 0.9 * fmean(losses[:quarter])


def test_trajectories_are_made_not_trained():
    with pytest.raises(ConfigError, match="stage_2"):
        stage_objective(load_preset("tiny"), "trajectories")
