"""What is stated about weights fills in what they leave open, and is refused where they differ."""

from pathlib import Path

import pytest

from omniforcing_model.errors import WeightsError
from omniforcing_model.families import FAMILIES, LAYOUTS, Profile
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.weights.stated_family import (
    StatedFamily,
    resolve_profile,
    warn_of_other_sigmas,
    with_stated_family,
)
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import small_model_config

FILE = Path("some.safetensors")
LTX2 = {"pairs": "split", "frequencies": "float64", "gate_timestep_scale": 1000.0}
RELEASED = {"pairs": "interleaved", "frequencies": "float32", "gate_timestep_scale": 1.0}


def test_a_checkpoint_that_states_all_needs_nothing_stated():
    other = {"pairs": "split", "frequencies": "float32", "gate_timestep_scale": 5.0}
    assert resolve_profile(other, StatedFamily(), FILE, "") == Profile("split", "float32", 5.0)


def test_what_a_checkpoint_leaves_open_has_to_be_stated():
    open_fields = {"frequencies": "float64"}
    with pytest.raises(WeightsError, match="got no pairs, gate_timestep_scale; state"):
        resolve_profile(open_fields, StatedFamily(), FILE, "")
    stated = StatedFamily(family="ltx-2")
    assert resolve_profile(open_fields, stated, FILE, "") == FAMILIES["ltx-2"].profile


def test_another_profile_than_the_checkpoints_is_refused_unless_it_is_overridden():
    message = r"pairs split instead of interleaved, frequencies float64 instead of float32.*: why\."
    with pytest.raises(WeightsError, match=message):
        resolve_profile(LTX2, StatedFamily(family="omniforcing-5s"), FILE, "why")
    stated = StatedFamily(family="omniforcing-5s", override=True)
    assert resolve_profile(LTX2, stated, FILE, "why") == FAMILIES["omniforcing-5s"].profile
    same = StatedFamily(family="ltx-2")
    assert resolve_profile(LTX2, same, FILE, "why") == FAMILIES["ltx-2"].profile


def test_unknown_families_are_refused_with_the_known_ones():
    with pytest.raises(WeightsError, match=r"expected a family of ltx-2, .*, got 'ltx'"):
        resolve_profile(LTX2, StatedFamily(family="ltx"), FILE, "")


def test_a_run_states_its_layout_its_phases_and_the_family():
    config = small_model_config()
    assert StatedFamily.of(config) == StatedFamily(layout=config.layout, phases="float64")
    of_echo = config.model_copy(update={"family": "echo-wm-flash"})
    assert StatedFamily.of(of_echo).family == "echo-wm-flash"


def test_the_layout_of_files_that_have_none_is_the_familys_unless_another_is_stated():
    assert StatedFamily().layout_of_family is None
    assert StatedFamily(family="ltx-2").layout_of_family is None
    own = StatedFamily(family="lightx2v-ar").layout_of_family
    assert own == FAMILIES["lightx2v-ar"].layout
    assert own.cross_view == "own"
    stated = StatedFamily(LAYOUTS["paper"], family="lightx2v-ar")
    assert stated.layout_of_family == LAYOUTS["paper"]


def config_with(**layout):
    return small_model_config().model_copy(update={"layout": layout_of(**layout)})


def test_weights_without_a_family_become_those_of_the_stated_one():
    config = config_with(sinks=3, window_blocks=7)
    assert with_stated_family(config, StatedFamily(), FILE) == config
    for family in ("ltx-2", None):
        assert with_stated_family(config, StatedFamily(family=family), FILE).family == family
    released = config_with(name="released", sinks=3, window_blocks=7)
    stated = with_stated_family(released, StatedFamily(family="omniforcing-5s"), FILE)
    assert stated == released.model_copy(update={"family": "omniforcing-5s"})


def test_macro_blocks_of_another_family_are_refused_unless_it_is_overridden():
    config = config_with(sinks=3, window_blocks=7)
    message = (
        "anchor follows instead of stays, cross_view history instead of own, first_block 1|1"
        r" instead of 3\|25 for some"
    )
    with pytest.raises(WeightsError, match=message):
        with_stated_family(config, StatedFamily(family="lightx2v-ar"), FILE)
    meant = StatedFamily(family="lightx2v-ar", override=True)
    assert with_stated_family(config, meant, FILE).layout == FAMILIES[
        "lightx2v-ar"
    ].layout.model_copy(update={"sinks": 3, "window_blocks": 7})


def test_weights_of_one_family_are_not_those_of_another():
    config = small_model_config().model_copy(update={"family": "taomate"})
    with pytest.raises(WeightsError, match="got family taomate for some"):
        with_stated_family(config, StatedFamily(family="ltx-2"), FILE)
    meant = StatedFamily(family="ltx-2", override=True)
    assert with_stated_family(config, meant, FILE).family == "ltx-2"


@pytest.mark.parametrize(
    ("family", "sigmas", "said"),
    [
        ("lightx2v-ar", (1.0, 0.75, 0.5, 0.25), False),
        ("omniforcing-5s", (0.99999994, 0.90623, 0.7265, 0.4207), False),
        ("lightx2v-ar", (1.0, 0.75, 0.5), True),
        ("lightx2v-ar", (1.0, 0.75, 0.5, 0.2), True),
        ("ltx-2", (1.0, 0.5), False),
        (None, (1.0, 0.5), False),
    ],
)
def test_sigmas_that_weights_were_not_made_for_are_said(family, sigmas, said, caplog):
    model = small_model_config().model_copy(update={"family": family})
    warn_of_other_sigmas(model, sigmas)
    assert ("set sampling.student_sigmas" in caplog.text) is said


def test_every_family_has_the_numbers_of_its_release():
    """Of facts that no other test would miss: each release's own sampler and cache."""
    assert str(FAMILIES["ltx-2"].profile) == "split, float64, multiplier 1000"
    assert str(FAMILIES["omniforcing-5s"].profile) == "interleaved, float32, multiplier 1"
    assert str(FAMILIES["taomate"].profile) == "split, float32, multiplier 1"
    for name in ("echo-wm-flash", "lightx2v-ar"):
        assert FAMILIES[name].profile == FAMILIES["ltx-2"].profile
    steps = {name: len(family.sigmas) for name, family in FAMILIES.items()}
    assert steps == {
        "ltx-2": 0,
        "omniforcing-5s": 4,
        "taomate": 3,
        "echo-wm-flash": 4,
        "lightx2v-ar": 4,
    }
    for family in FAMILIES.values():
        assert list(family.sigmas) == sorted(set(family.sigmas), reverse=True)
        assert family.fps == VIDEO_FPS
        assert (family.layout is None) == (not family.sigmas)
