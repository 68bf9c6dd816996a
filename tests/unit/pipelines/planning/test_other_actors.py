"""What a teacher server and a sampler of trajectories hold, whose models are whole."""

import pytest

from infra.presets import load_preset
from pipelines.planning.model_size import model_size
from pipelines.planning.other_actors import sampler_memory, teacher_server_memory

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


def tiny(*overrides):
    return load_preset("tiny", overrides)


def test_a_server_holds_one_whole_teacher_in_the_precision_of_its_stage():
    config = tiny("stages.stage_1.optimiser.precision=bfloat16")
    whole = model_size(config.model).total
    halved, full = (teacher_server_memory(config, stage) for stage in ("stage_1", "stage_3"))
    assert halved.phases["construction"] == {"frozen": 2 * whole}
    assert full.phases["construction"] == {"frozen": 4 * whole}
    assert halved.peak_phase == "answer"
    assert 0 < halved.phases["answer"]["activations"] < full.phases["answer"]["activations"]


def test_an_answer_takes_what_a_micro_batch_does():
    def activations(micro_batch):
        config = tiny(f"stages.stage_1.optimiser.micro_batch={micro_batch}")
        return teacher_server_memory(config, "stage_1").phases["answer"]["activations"]

    assert activations(4) == pytest.approx(4 * activations(1), rel=0.1)  # rotations are shared


def test_a_sampler_keeps_the_states_of_every_step_and_those_of_the_students_again():
    def states(*settings):
        return sampler_memory(tiny(*settings)).phases["sampling"]["states"]

    chosen = ("stages.trajectories.guided=true", "stages.trajectories.batch=1")
    sigmas = len(tiny().sampling.student_sigmas)
    few, many = (states(*chosen, f"sampling.teacher_steps={steps}") for steps in (10, 40))
    assert many - few == pytest.approx(30 / (10 + sigmas + 2) * few)
    own = states("stages.trajectories.guided=false", "stages.trajectories.batch=1")
    assert own == pytest.approx((2 * sigmas + 2) / (10 + sigmas + 2) * few)


def test_guidance_and_larger_batches_take_more_of_a_sampler():
    def activations(*settings):
        own = [f"stages.trajectories.{setting}" for setting in settings]
        return sampler_memory(tiny(*own)).phases["sampling"]["activations"]

    plain, guided = (activations(f"guided={guided}", "batch=1") for guided in ("false", "true"))
    assert guided > plain
    assert activations("guided=false", "batch=4") == pytest.approx(4 * plain, rel=0.1)
