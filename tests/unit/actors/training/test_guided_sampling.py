"""A run's configuration as the teacher's sigmas and guidance."""

import pytest
import torch

from actors.training.guided_sampling import (
    schedule,
    teacher_guidance,
    teacher_schedule,
    trajectory_sigmas,
)
from infra.presets import load_preset
from omniforcing_model.errors import SamplingError
from omniforcing_model.flow_matching import shifted_schedule
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from tests.worlds.training import random_model, small_run


def null_text(config):
    model = random_model(config)
    features = torch.zeros(1, 2, config.model.text_width)
    return model.read_text(PerStream(features, features))


def test_each_setting_reaches_its_term_and_stream():
    config = small_run(
        "sampling.guidance_video=2.5",
        "sampling.guidance_audio=6.5",
        "sampling.stg_video=0.5",
        "sampling.stg_audio=1.5",
        "sampling.stg_layers=[0]",
        "sampling.modality_video=1.25",
        "sampling.modality_audio=1.75",
        "sampling.rescale=0.25",
    )
    guidance = teacher_guidance(config.sampling, null_text(config))
    assert guidance.scales.video == GuidanceScales(2.5, 0.5, 1.25, 0.25)
    assert guidance.scales.audio == GuidanceScales(6.5, 1.5, 1.75, 0.25)
    assert guidance.stg_layers == (0,)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_large_presets_sample_as_ltx2s_authors_do(preset):
    sampling = load_preset(preset).sampling
    scales = teacher_guidance(sampling, null_text(small_run())).scales
    assert scales == PerStream(GuidanceScales(3, 1, 3, 0.7), GuidanceScales(7, 1, 3, 0.7))
    assert sampling.teacher_steps == 40


def test_a_schedule_without_a_shift_takes_that_of_the_clips_tokens():
    config = load_preset("paper", ["sampling.schedule_shift=null", "data.seconds=5"])
    # 16 video latents of 16 x 24: diffusers' schedule for the clip that LTX-2 was released with.
    sigmas = teacher_schedule(config, config.model)
    assert sigmas[1:6] == pytest.approx([0.99798, 0.99587, 0.99365, 0.99131, 0.98885], abs=1e-5)
    small = load_preset("paper", ["sampling.schedule_shift=null", "data.height=256"])
    assert schedule(small, small.model, 40) == pytest.approx(shifted_schedule(40, 1.683333, 0.1))


def test_trajectories_of_stage_1_stand_at_the_students_sigmas():
    config = small_run("sampling.student_sigmas=[1.0, 0.4]")
    assert trajectory_sigmas(config, config.model) == [1.0, 0.4, 0.0]


def test_guided_trajectories_stand_at_the_teachers_nearest_sigmas():
    config = load_preset("released")
    sigmas = trajectory_sigmas(config, config.model)
    assert sigmas == pytest.approx([1, 0.906229, 0.726524, 0.420719, 0], abs=1e-6)
    assert set(sigmas) <= set(teacher_schedule(config, config.model))


def test_too_few_guided_steps_for_the_students_sigmas_are_refused():
    config = load_preset("released", ["sampling.teacher_steps=4"])
    with pytest.raises(SamplingError, match=r"4 steps.*teacher_steps"):
        trajectory_sigmas(config, config.model)


SIZES = ("data.buckets=[{height: 512, width: 512}]",)


def test_guided_trajectories_of_several_sizes_need_one_schedule_for_all():
    shifted = load_preset("released", SIZES)
    assert len(trajectory_sigmas(shifted, shifted.model)) == 5
    by_tokens = load_preset("released", [*SIZES, "sampling.schedule_shift=null"])
    with pytest.raises(SamplingError, match=r"data\.buckets, got .*sampling\.schedule_shift"):
        trajectory_sigmas(by_tokens, by_tokens.model)
