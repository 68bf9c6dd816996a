"""The codecs that a benchmark on a GPU decodes with, in LTX-2's full size: shapes alone."""

import pytest
import torch

from infra.presets import load_preset
from pipelines.benchmarks.stand_ins.stream_codecs import random_ltx2_codecs

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity


@torch.no_grad()
def test_a_stream_of_the_19b_shape_decodes_to_a_second_of_picture_and_sound_per_block() -> None:
    device = torch.device("meta")
    codecs = random_ltx2_codecs(load_preset("paper"), device)
    video, audio = codecs.video.decoder(), codecs.audio.decoder()
    frames = samples = 0
    for index, (pictures, sounds) in enumerate([(1, 1), (3, 25), (3, 25)]):
        final = index == 2
        decoded = video.decode(torch.empty(1, pictures, 128, 16, 24, device=device), final)
        waveform = audio.decode(torch.empty(1, sounds, 128, device=device), final)
        frames, samples = frames + decoded.shape[1], samples + waveform.shape[2]
        assert decoded.shape[2:] == (3, 512, 768)
    assert frames == 1 + 2 * 24
    assert samples == 2 * 24_000 + 240  # the first latent is one mel frame
