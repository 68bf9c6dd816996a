import pytest

from infra.errors import ConfigError
from pipelines.cli import main
from pipelines.commands.distill import starting_models


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
