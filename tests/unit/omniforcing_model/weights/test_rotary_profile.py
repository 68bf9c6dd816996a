from pathlib import Path

import pytest

from omniforcing_model.errors import WeightsError
from omniforcing_model.weights.rotary_profile import (
    PROFILES,
    Profile,
    StatedProfile,
    resolve_profile,
)
from tests.worlds.small_models import small_model_config

FILE = Path("some.safetensors")
LTX2 = {"pairs": "split", "frequencies": "float64", "gate_timestep_scale": 1000.0}
RELEASED = {"pairs": "interleaved", "frequencies": "float32", "gate_timestep_scale": 1.0}


def test_there_are_two_profiles():
    assert {name: p._asdict() for name, p in PROFILES.items()} == {
        "ltx-2": LTX2,
        "released": RELEASED,
    }
    assert str(PROFILES["ltx-2"]) == "split, float64, multiplier 1000"


def test_a_checkpoint_that_states_all_needs_nothing_stated():
    other = {"pairs": "split", "frequencies": "float32", "gate_timestep_scale": 5.0}
    assert resolve_profile(other, StatedProfile(), FILE, "") == Profile("split", "float32", 5.0)


def test_what_a_checkpoint_leaves_open_has_to_be_stated():
    open_fields = {"frequencies": "float64"}
    with pytest.raises(WeightsError, match="got no pairs, gate_timestep_scale; state"):
        resolve_profile(open_fields, StatedProfile(), FILE, "")
    stated = StatedProfile(profile="ltx-2")
    assert resolve_profile(open_fields, stated, FILE, "") == PROFILES["ltx-2"]


def test_another_profile_than_the_checkpoints_is_refused_unless_it_is_overridden():
    message = r"pairs split instead of interleaved, frequencies float64 instead of float32.*: why\."
    with pytest.raises(WeightsError, match=message):
        resolve_profile(LTX2, StatedProfile(profile="released"), FILE, "why")
    stated = StatedProfile(profile="released", override=True)
    assert resolve_profile(LTX2, stated, FILE, "why") == PROFILES["released"]
    same = StatedProfile(profile="ltx-2")
    assert resolve_profile(LTX2, same, FILE, "why") == PROFILES["ltx-2"]


def test_unknown_profiles_are_refused_with_the_known_ones():
    with pytest.raises(WeightsError, match="expected a profile of ltx-2, released, got 'ltx'"):
        resolve_profile(LTX2, StatedProfile(profile="ltx"), FILE, "")


def test_a_run_states_its_layout_and_phases():
    config = small_model_config()
    stated = StatedProfile.of(config)
    assert stated == StatedProfile(layout=config.layout, phases="float64")
