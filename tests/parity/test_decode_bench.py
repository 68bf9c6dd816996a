"""`omniforcing bench decode`: how far a stream's frames are from the whole clip's."""

import json

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.stream.decode_bench import bench_decode, decode_settings, decode_subject
from pipelines.cli import main
from tests.parity.ltx2_codec_models import video_vae
from tests.worlds.ltx2_release import settings_of

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

LAYERS = {"ltx-2.0": [5, 5, 5, 5], "ltx-2.3": [4, 6, 4, 2, 2]}


def test_the_runs_own_decoder_is_measured_on_a_clip_that_it_encoded(tmp_path, capfd):
    video_vae().save_pretrained(tmp_path / "vae")
    settings = [word for value in settings_of(tmp_path) for word in ("--set", value)]
    arguments = ["bench", "decode", "--preset", "paper", *settings, "--seconds", "3"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert str(tmp_path) in report["codec"]
    assert report["latents"] == "a rendered clip"
    errors = {(error["left"], error["right"]): error for error in report["errors"]}
    assert set(errors) == {(left, right) for left in (0, 2, 4, 8, None) for right in (0, 1, 2, 4)}
    for left in (0, 2, 4, 8, None):
        row = [errors[left, right]["relative_error"] for right in (0, 1, 2, 4)]
        assert row == sorted(row, reverse=True)
    assert all(
        (error["psnr_db"] is None) == (error["relative_error"] == 0) for error in report["errors"]
    )
    assert main(arguments) == 0
    assert "carried over" in capfd.readouterr().out


@pytest.mark.parametrize("architecture", LAYERS)
def test_without_weights_the_layers_are_the_releases(architecture):
    config = load_preset("paper", [f"model.architecture={architecture}", "codec.video=/nowhere"])
    subject, again = (decode_subject(config, 2, torch.device("cpu")) for _ in range(2))
    decoder = subject.codec.vae.decoder
    blocks = [decoder.mid_block, *decoder.up_blocks]
    assert sorted(len(block.resnets) for block in blocks) == sorted(LAYERS[architecture])
    assert architecture in subject.what and "random" in subject.what
    assert torch.equal(subject.latents, again.latents)
    weights = [next(one.codec.parameters()) for one in (subject, again)]
    assert torch.equal(*weights)


@pytest.mark.slow
def test_what_is_measured_without_weights_says_so():
    steps = []
    report = bench_decode(load_preset("tiny"), 2, torch.device("cpu"), lambda: steps.append(1))
    assert len(report.errors) == len(steps) == decode_settings()
    assert "random" in report.codec
