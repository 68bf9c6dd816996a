"""What a call of `omniforcing preprocess` leaves and says."""

import pytest

from pipelines.cli import main


@pytest.mark.parametrize("command", ["preprocess --clips {0}/clips", "demo {0}/a.mp4"])
def test_a_configuration_that_does_not_fit_leaves_no_output_folder(tmp_path, capfd, command):
    (tmp_path / "clips").mkdir()
    words = command.format(tmp_path).split()
    status = main([*words, "--out", str(tmp_path / "new" / "out"), "--set", "data.height=65"])
    assert (
        "expected data.height, data.width and data.buckets in multiples" in capfd.readouterr().err
    )
    assert status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]
