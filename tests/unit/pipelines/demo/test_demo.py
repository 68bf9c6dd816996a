"""What a demo trains, keeps and streams."""

import dataclasses
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.presets import load_preset
from infra.stages import TRAINED
from infra.terminal.progress import SilentProgress
from omniforcing_model.beacons.metrics import Scores
from pipelines.demo.demo import _name_of, demo, is_as_good, short_pass, starting_models

SHIPPED = Scores(20.0, 0.9, 1.0, 1.0, clips=12)


def test_a_short_pass_is_short_in_every_stage_and_changes_nothing_else() -> None:
    config = load_preset("tiny", ["demo.steps=6", "demo.trajectories=16"])
    small = short_pass(config)
    assert {small.stages.trained_stage(stage).optimiser.steps for stage in TRAINED} == {6}
    assert small.stages.trajectories.count == 16
    assert small.model == config.model and small.data == config.data
    assert small.stages.stage_3.critic_ratio == config.stages.stage_3.critic_ratio


@pytest.mark.parametrize("preset", ["paper", "released", "small"])
def test_a_preset_without_a_demo_says_so_before_anything_is_made(
    preset: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"demo: null in {preset}; use --preset tiny"):
        demo(load_preset(preset), tmp_path / "out", [], SilentProgress())
    assert not (tmp_path / "out").exists()


def test_a_short_pass_in_which_a_generator_would_not_learn_is_refused_at_once(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"in stage_1, got none of the generator in 4 steps"):
        demo(load_preset("tiny", ["demo.steps=4"]), tmp_path / "out", [], SilentProgress())
    assert not (tmp_path / "out").exists()


def test_the_student_goes_on_from_the_stage_before_it_so_that_its_lineage_is_one_chain() -> None:
    starts = starting_models(load_preset("tiny"))
    assert set(starts) == {"teacher.generator", "stage_1.generator", "stage_2.generator"}


@pytest.mark.parametrize(
    ("change", "is_chosen"),
    [
        ({"av_offset_ms_median": 35.0}, True),
        ({"av_offset_ms_median": 35.1}, False),
        ({}, True),
        ({"av_offset_ms_median": 12.0}, True),
        ({"rate_accuracy": 0.9 - 1 / 12}, True),
        ({"rate_accuracy": 0.9 - 2 / 12}, False),
        ({"colour_accuracy": 0.5}, False),
        ({"av_offset_ms_median": 80.0}, False),
    ],
)
def test_a_student_that_got_worse_is_not_streamed(
    change: dict[str, float], is_chosen: bool
) -> None:
    assert is_as_good(dataclasses.replace(SHIPPED, **change), SHIPPED) is is_chosen


@pytest.mark.parametrize(
    ("override", "is_another"),
    [
        ("data.exclude=[a.mp4]", True),
        ("codec.text_tokens=25", True),
        ("stages.stage_3.negative_prompt=noise", True),
        ("model.layers=3", True),
        ("serve.port=1", False),
        ("cluster.local_cpus=4", False),
        ("data.gates.max_seconds=60", False),
    ],
)
def test_what_decides_a_result_names_the_run_folder(override: str, is_another: bool) -> None:
    """Otherwise a second demo would be refused by the recipe of what lies there."""
    names = {_name_of(load_preset("tiny", each), "sha256:1", {}) for each in ([], [override])}
    assert (len(names) == 2) == is_another
