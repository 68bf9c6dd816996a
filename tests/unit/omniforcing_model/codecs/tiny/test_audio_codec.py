import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omniforcing_model.beacons.metrics import audio_onsets, pitch_of
from omniforcing_model.beacons.world import Beacon, flash_times, render_waveform, sample_beacon
from omniforcing_model.codecs.tiny.audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.errors import ShapeError, WeightsError
from tests.worlds.host_waits import NoHostWaits

RATE = 16_000


def beacon_sounds(count: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    waves = [render_waveform(sample_beacon(rng), 121 / 24, RATE) for _ in range(count)]
    return torch.from_numpy(np.stack(waves))[:, None]


@pytest.fixture(scope="module")
def codec() -> TinyAudioCodec:
    return TinyAudioCodec.fit(beacon_sounds(40, seed=0).split(10), latents=126)


def test_the_latents_of_five_seconds_and_one_frame_keep_the_log_mel(codec: TinyAudioCodec) -> None:
    sounds = beacon_sounds(3, seed=1)
    latents = codec.encode(sounds, 126)
    assert latents.shape == (3, 126, 16)
    assert 0.8 < latents.std() < 1.2
    assert codec.explained_variance(sounds, 126) > 0.98


@pytest.mark.parametrize("pitch", ["low", "middle", "high"])
def test_a_beep_comes_back_with_its_pitch_and_in_its_place(
    codec: TinyAudioCodec, pitch: str
) -> None:
    beacon = Beacon("red", 2, pitch, phase_frames=7)
    sound = torch.from_numpy(render_waveform(beacon, 121 / 24, RATE))[None, None]
    decoded = codec.decode(codec.encode(sound, 126))
    assert decoded.shape == (1, 2, 501 * 160)
    assert torch.equal(decoded[:, 0], decoded[:, 1])
    assert 0.7 < decoded[:, 0].square().mean() / sound.square().mean() < 1.6
    mono = decoded[0, 0].numpy()
    assert pitch_of(mono, RATE) == pitch
    np.testing.assert_allclose(audio_onsets(mono, RATE), flash_times(beacon, 5.0), atol=0.015)


@pytest.mark.parametrize(
    "blocks", [(1, 25, 25, 25, 25, 25), (26, 25, 25, 25, 25), (5,) * 25 + (1,)]
)
def test_a_stream_in_blocks_is_the_whole(codec: TinyAudioCodec, blocks: tuple[int, ...]) -> None:
    latents = codec.encode(beacon_sounds(2, seed=2), 126)
    decoder = codec.decoder()
    parts = [
        decoder.decode(block, final=number == len(blocks) - 1)
        for number, block in enumerate(latents.split(blocks, 1))
    ]
    assert parts[0].shape[2] == 4 * (blocks[0] - 1) * 160
    assert {part.shape[2] for part in parts[1:-1]} == {blocks[1] * 640}
    whole = codec.decode(latents)
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-6, rtol=0)


def test_a_later_latent_changes_no_sample_before_its_mel_frames(codec: TinyAudioCodec) -> None:
    latents = codec.encode(beacon_sounds(1, seed=3), 126)
    changed = latents.clone()
    changed[:, 10:] += 1
    # Latent 10 begins with mel frame 37, which fades in from frame 36 on.
    before, after = codec.decode(latents), codec.decode(changed)
    assert torch.equal(before[:, :, : 36 * 160], after[:, :, : 36 * 160])
    assert not torch.allclose(before[:, :, 37 * 160 :], after[:, :, 37 * 160 :])


def test_a_short_waveform_is_padded_with_silence_and_a_long_one_trimmed(
    codec: TinyAudioCodec,
) -> None:
    sound = beacon_sounds(1, seed=4)
    padded = torch.nn.functional.pad(sound[..., :40_000], (0, 60_000))
    assert torch.equal(codec.encode(sound[..., :40_000], 126), codec.encode(padded, 126))
    assert codec.encode(sound[..., :100], 1).shape == (1, 1, 16)
    assert torch.equal(codec.encode(sound, 26), codec.encode(sound[..., : 101 * 160], 26))


def test_the_codec_read_from_disk_is_the_one_that_was_fitted(
    codec: TinyAudioCodec, tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec.safetensors")
    again = TinyAudioCodec.load(tmp_path / "codec.safetensors")
    latents = codec.encode(beacon_sounds(1, seed=5), 126)
    assert torch.equal(again.decode(latents), codec.decode(latents))
    with pytest.raises(WeightsError, match="tiny_audio_codec"):
        TinyVideoCodec.load(tmp_path / "codec.safetensors")


def test_a_waveform_without_a_channel_axis_is_refused(codec: TinyAudioCodec) -> None:
    with pytest.raises(ShapeError, match="add the missing axis"):
        codec.encode(torch.zeros(1, RATE), 26)


def test_decoding_is_queued_without_a_wait_for_the_device(codec: TinyAudioCodec) -> None:
    decoder = copy.deepcopy(codec).to("meta").decoder()
    with NoHostWaits():
        shapes = [
            decoder.decode(torch.empty(1, n, 16, device="meta"), n == 25).shape for n in (1, 25)
        ]
    assert shapes == [(1, 2, 0), (1, 2, 16_160)]


def test_a_wait_for_the_device_is_noticed() -> None:
    values = torch.empty(3, device="meta")
    for waiting in (lambda: torch.ones(3).to("meta"), lambda: values.copy_(torch.ones(3))):
        with pytest.raises(AssertionError, match="a copy waits"), NoHostWaits():
            waiting()
    with pytest.raises(AssertionError, match="the host reads"), NoHostWaits():
        values.sum().item()
    with NoHostWaits():
        assert torch.ones(3).to("meta", non_blocking=True).is_meta
