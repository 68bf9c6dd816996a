"""What is in the recipe of a stage: every field of the configuration, or a reason why not."""

import pytest
from pydantic import BaseModel

from infra.errors import ConfigError
from infra.presets import load_preset
from infra.runs.provenance import ArtifactRef, differing_keys, flatten
from infra.runs.stage_recipe import NOT_DECIDING, NOT_DECIDING_SETTINGS, stage_recipe
from infra.stages import STAGES

CLIPS = ArtifactRef(role="clips", kind="dataset", name="clips", digest="sha256:1", uri="/clips")


def recipe(stage, *overrides, inputs=(CLIPS,)):
    return stage_recipe(load_preset("tiny", overrides), stage, inputs)


def fields_of(config, prefix=""):
    """Dotted path of every field that is no section."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        nested = isinstance(value, BaseModel)
        yield from fields_of(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]


def is_listed(path, reasons):
    """Whether a field or a section that it is in has a reason."""
    parts = path.split(".")
    return any(".".join(parts[:end]) in reasons for end in range(1, len(parts) + 1))


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_is_in_the_recipe_or_has_a_reason_why_not(stage):
    config, keys = load_preset("paper"), flatten(recipe(stage))
    for path in fields_of(config):
        section, _, rest = path.partition(".")
        if section == "sampling":
            continue  # what a stage takes of it is a fact of the stage, and tested below
        if section == "stages":
            of_stage, _, setting = rest.partition(".")
            if of_stage == stage:
                listed = is_listed(setting, NOT_DECIDING_SETTINGS)
                assert (f"settings.{setting}" in keys) != listed, path
            continue
        assert (path in keys) != is_listed(path, NOT_DECIDING), path


def test_every_reason_is_of_a_field_or_section_that_there_is():
    config = load_preset("tiny")
    paths = [*fields_of(config)]
    for listed in NOT_DECIDING:
        assert any(f"{path}.".startswith(f"{listed}.") for path in paths), listed
    for listed in NOT_DECIDING_SETTINGS:
        assert any(path.startswith("stages.") and path.endswith(f".{listed}") for path in paths)


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("stages.stage_1.optimiser.steps=7", True),
        ("stages.stage_1.guidance_audio=4.0", True),
        ("sampling.student_sigmas=[1.0, 0.5]", True),
        ("model.layers=3", True),
        ("stages.stage_1.optimiser.checkpoint_every=7", False),
        ("stages.stage_1.optimiser.zero_stage=2", False),
        ("stages.stage_3.optimiser.steps=7", False),
        ("sampling.guidance_video=4.0", False),
        ("data.seconds=5", True),
        ("data.height=96", True),
        ("data.exclude=[a.mp4]", True),
        ("codec.text_tokens=25", True),
        ("codec.dtype=bfloat16", True),
        ("stages.stage_1.negative_prompt=noise", True),
        ("codec.video=elsewhere", False),
        ("data.gates.max_seconds=60", False),
        ("data.buckets=[{height: 32, width: 64}]", True),
        ("sampling.student_precision=bfloat16", False),
        ("sampling.student_kernels=plain", False),
        ("sampling.student_passes=plain", False),
        ("cluster.distillation_worker.replicas=1", False),
        ("serve.port=7", False),
    ],
)
def test_a_recipe_holds_what_decides_the_result_and_nothing_else(override, changes):
    assert (recipe("stage_1") != recipe("stage_1", override)) == changes


def test_guided_trajectories_are_decided_by_the_guidance_and_others_are_not():
    push, guided = "sampling.stg_video=2.0", "stages.trajectories.guided=true"
    assert recipe("trajectories", push) == recipe("trajectories")
    assert recipe("trajectories", push, guided) != recipe("trajectories", guided)


def test_another_dataset_is_another_recipe():
    other = CLIPS.model_copy(update={"digest": "sha256:2"})
    keys = differing_keys(recipe("teacher"), recipe("teacher", inputs=(other,)))
    assert keys == ["inputs.clips: sha256:1 -> sha256:2"]


def test_a_moved_dataset_is_the_same_recipe():
    moved = CLIPS.model_copy(update={"uri": "/elsewhere"})
    assert recipe("teacher") == recipe("teacher", inputs=(moved,))


def test_an_unknown_stage_is_refused_and_the_real_ones_listed():
    with pytest.raises(ConfigError, match="stage_3"):
        recipe("stage_4")
