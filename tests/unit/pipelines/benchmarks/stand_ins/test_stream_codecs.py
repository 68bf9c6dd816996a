"""Codecs where there are no weights: of the model's shapes, and neither blind nor deafening."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.stand_ins.stream_codecs import stream_codecs

CPU = torch.device("cpu")


def test_a_random_linear_codec_keeps_the_size_of_what_it_encodes() -> None:
    config = load_preset("small")
    codecs = stream_codecs(config, CPU)
    assert codecs.what == "linear, random"
    pictures = torch.randn(1, 9, 3, 64, 64)
    latents = codecs.video.encode(pictures)
    assert latents.shape[2] == config.model.video.latent_channels
    assert latents.std().item() == pytest.approx(1.0, rel=0.2)


def test_the_runs_own_codecs_come_first() -> None:
    assert stream_codecs(load_preset("tiny"), CPU).what.startswith("tiny, ")
