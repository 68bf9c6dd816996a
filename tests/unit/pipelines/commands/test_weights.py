"""`omniforcing weights`, as somebody at a terminal reads it."""

from pathlib import Path

import pytest

from pipelines.cli import main

STUDENT = Path(__file__).parents[4] / "omniforcing_model/tiny_weights/student"


def test_people_get_what_a_checkpoint_is_line_by_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "inspect", str(STUDENT)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("ltx-2.0, 4 layers")
    assert "profile     split pairs, float64 frequencies, gate multiplier 1000" in lines
    assert "layout      1|3 video, 1|25 audio, 16 sinks" in lines
    assert not any(line.startswith("family") for line in lines)
    assert any(line.startswith("tensors     343 with 2,012,584 parameters") for line in lines)


def test_people_get_the_digest_of_weights_that_are_whole(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "verify", str(STUDENT)]) == 0
    assert "sha256:" in capfd.readouterr().out


def test_a_profile_that_is_stated_is_held_against_the_checkpoints_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "inspect", str(STUDENT), "--family", "ltx-2"]) == 0
    assert "family      ltx-2, 24 frames/s, sigmas of many steps" in capfd.readouterr().out
    assert main(["weights", "inspect", str(STUDENT), "--family", "omniforcing-5s"]) == 1
    assert "expected weights of the family omniforcing-5s" in capfd.readouterr().err
