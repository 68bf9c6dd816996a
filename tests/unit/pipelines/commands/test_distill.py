import pytest

from infra.errors import ConfigError
from pipelines.cli import main
from pipelines.commands.distill import starting_models
from tests.worlds.training import small_run, write_clips


def test_a_role_may_start_from_any_uri_even_one_with_an_equals_sign():
    options = ["teacher=s3://bucket/a=b", "stage_3.generator=models:/tiny-stage_2@candidate"]
    assert starting_models(options) == {
        "teacher": "s3://bucket/a=b",
        "stage_3.generator": "models:/tiny-stage_2@candidate",
    }


@pytest.mark.parametrize("option", ["teacher", "=MODEL", "teacher="])
def test_a_start_without_role_or_model_is_refused(option):
    with pytest.raises(ConfigError, match=f"ROLE=MODEL, got '{option}'"):
        starting_models([option])


def test_stages_that_are_not_trained_are_refused_by_name(tmp_path, capfd):
    options = ["--dataset", str(tmp_path), "--out", str(tmp_path / "run")]
    stages = ["--stage", "trajectories", "--stage", "stage_1"]
    assert main(["distill", *options, *stages]) == 2
    message = capfd.readouterr().err
    assert "teacher, stage_1, stage_2, stage_3, got trajectories;" in " ".join(message.split())


def test_the_papers_run_in_its_shortest_form_says_what_it_starts_from(tmp_path, capfd):
    clips = write_clips(small_run(), tmp_path / "clips")
    options = ["--dataset", clips, "--out", str(tmp_path / "run"), "--set", "codec.kind=tiny"]
    assert main(["distill", "--preset", "paper", *options]) == 1
    message = " ".join(capfd.readouterr().err.split())
    assert "a model to start the generator of stage_1 from, got none" in message
    assert "; give --start teacher=MODEL" in message
    assert not list((tmp_path / "run").rglob("model*"))
    assert main(["distill", "--preset", "paper", *options, "--stage", "teacher"]) == 1
    assert "raise stages.teacher.optimiser.steps" in " ".join(capfd.readouterr().err.split())
