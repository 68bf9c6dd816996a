from collections import Counter

import pytest

from actors.training.stage_objectives import stage_objective
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.per_stream import PerStream


def test_scores_are_compared_at_the_sigmas_of_the_papers_clamped_schedule():
    stage = stage_objective(load_preset("tiny"), "stage_3")
    levels = stage.rule.noise_levels
    assert len(levels) == 1000
    assert (min(levels), max(levels)) == pytest.approx((0.217112, 0.997623), abs=1e-6)
    counts = Counter(levels)
    assert counts[min(levels)] == 21  # 0 .. 20, all clamped to 20
    assert counts[max(levels)] == 20  # 980 .. 999


def test_each_matching_stage_has_its_own_guidance_and_weights():
    config = load_preset(
        "tiny", ["stages.stage_1.guidance_audio=5.0", "stages.stage_3.audio_weight=3"]
    )
    one, three = (stage_objective(config, name).rule for name in ("stage_1", "stage_3"))
    assert one.guidance == PerStream(2.0, 5.0)
    assert three.guidance == PerStream(2.0, 2.0)
    assert (one.audio_weight, three.audio_weight) == (1.0, 3.0)
    assert one.student_sigmas == config.sampling.student_sigmas


def test_trajectories_are_made_not_trained():
    with pytest.raises(ConfigError, match="stage_2"):
        stage_objective(load_preset("tiny"), "trajectories")
