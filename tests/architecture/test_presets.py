"""Presets differ in values only, travel as JSON and pickle, and refuse unknown paths."""

import pickle

import pytest
from pydantic import BaseModel

from infra.config import RunConfig
from infra.errors import ConfigError
from infra.presets import load_preset, preset_names, preset_values
from infra.runs.run_folder import model_name
from infra.runs.tracking import CANDIDATE, REGISTRY_SCHEME
from infra.stages import TRAINED
from omniforcing_model.macro_block import BlockLayout


def left_out(values, config, prefix=""):
    """Dotted path of every field of `config` that `values` leave to a default."""
    for name in type(config).model_fields:
        if name not in values:
            yield f"{prefix}{name}"
        elif isinstance(getattr(config, name), BaseModel):
            yield from left_out(values[name], getattr(config, name), f"{prefix}{name}.")


@pytest.fixture(params=preset_names())
def preset(request):
    return load_preset(request.param)


def test_the_presets_of_the_design_exist():
    assert {"tiny", "paper", "released"} <= set(preset_names())


def test_a_preset_loads_under_its_own_name(preset):
    assert preset.name in preset_names()


def test_a_preset_gives_every_value_itself_so_that_each_can_be_set(preset):
    assert list(left_out(preset_values(preset.name), preset)) == []


def test_a_preset_survives_json(preset):
    assert RunConfig.model_validate_json(preset.model_dump_json()) == preset


def test_a_preset_survives_pickle(preset):
    assert pickle.loads(pickle.dumps(preset)) == preset


def test_a_preset_cannot_be_changed(preset):
    with pytest.raises(ValueError, match="frozen"):
        preset.name = "other"


def test_an_override_replaces_one_value():
    changed = load_preset("tiny", ["serve.max_sessions=7"])
    tiny = load_preset("tiny")
    assert changed.serve.max_sessions == 7
    assert changed == tiny.model_copy(
        update={"serve": tiny.serve.model_copy(update={"max_sessions": 7})}
    )


@pytest.mark.parametrize("path", ["serve.max_session", "server.max_sessions", "serve.port.number"])
def test_an_unknown_path_is_refused_and_the_real_names_listed(path):
    with pytest.raises(ConfigError) as refusal:
        load_preset("tiny", [f"{path}=4"])
    place = {"serve.max_session": "max_sessions", "server.max_sessions": "serve"}.get(path, "value")
    assert place in str(refusal.value)


def test_a_value_of_another_type_is_refused_by_its_path():
    with pytest.raises(ConfigError, match=r"serve\.max_sessions"):
        load_preset("tiny", ["serve.max_sessions=many"])


def test_an_unknown_preset_is_refused_and_the_real_ones_listed():
    with pytest.raises(ConfigError, match="tiny"):
        load_preset("tinny")


def test_registered_models_have_the_name_under_which_their_stage_registers_them(preset):
    for stage in TRAINED:
        uri = preset.models.of(stage)
        if uri.startswith(REGISTRY_SCHEME):
            assert uri == f"{REGISTRY_SCHEME}{model_name(preset.name, stage)}@{CANDIDATE}"


def test_the_real_score_is_guided_away_from_what_the_teacher_is(preset):
    prompts = {preset.stages.of(stage).negative_prompt for stage in ("stage_1", "stage_3")}
    assert prompts == {preset.sampling.negative_prompt}


def test_states_picked_from_many_guided_steps_are_regressed_to_their_clean_end(preset):
    guided = preset.stages.trajectories.guided
    assert preset.stages.stage_2.target == ("clean" if guided else "velocity")


def test_the_papers_steps_of_dmd_are_the_critics():
    roles = {role.name: role.updates for role in load_preset("paper").stages.stage_3.roles}
    assert roles == {"critic": 2000, "generator": 400}


def test_the_window_never_rolls_in_the_training_of_a_preset(preset):
    """As the README of the model says: a preset that rolls it has another sentence to write."""
    layout = BlockLayout(preset.model.layout)
    last = layout.blocks_for_seconds(preset.data.seconds) - 1
    assert layout.anchor_shift_s(last) == 0
    assert layout.is_visible(1, last)
