import math

import numpy as np
import torch

from omniforcing_model.codecs.mel import LogMel, band_centres_hz
from omniforcing_model.codecs.tiny.sine_bank_vocoder import SineBankStream, SineBankVocoder

FLOOR = 1e-2


def tone(band: int, samples: int) -> torch.Tensor:
    time = torch.arange(samples, dtype=torch.float64) / 16_000
    return torch.sin(2 * math.pi * band_centres_hz()[band] * time).float()[None]


def test_a_steady_tone_comes_back_with_its_frequency_and_loudness() -> None:
    mel, vocoder = LogMel(FLOOR), SineBankVocoder(FLOOR)
    for band in (9, 33, 60):
        sound = vocoder.stream().synthesise(mel(0.5 * tone(band, 16_000)), final=True)[0]
        middle = sound[4000:12_000]
        assert abs(float(middle.square().mean().sqrt()) - 0.5 / math.sqrt(2)) < 0.03
        spectrum = np.abs(np.fft.rfft(middle.numpy() * np.hanning(8000)))
        assert abs(spectrum.argmax() * 2 - band_centres_hz()[band]) <= 2


def test_silence_stays_silent() -> None:
    log_mel = torch.full((1, 20, 64), math.log(FLOOR))
    sound = SineBankVocoder(FLOOR).stream().synthesise(log_mel, final=True)
    assert sound.shape == (1, 20 * 160)
    assert sound.abs().max() < 1e-6


def test_a_stream_does_not_begin_with_a_click() -> None:
    sound = SineBankVocoder(FLOOR).stream().synthesise(torch.zeros(1, 100, 64), final=True)[0]
    assert sound[:480].abs().max() < 1.5 * sound[480:].abs().max()


def test_one_hop_is_held_back_until_the_next_frame_or_the_end() -> None:
    stream = SineBankVocoder(FLOOR).stream()
    log_mel = torch.zeros(2, 5, 64)
    assert stream.synthesise(log_mel, final=False).shape == (2, 4 * 160)
    assert stream.synthesise(log_mel, final=False).shape == (2, 5 * 160)
    assert stream.synthesise(log_mel[:, :0], final=False).shape == (2, 0)
    assert stream.synthesise(log_mel[:, :0], final=True).shape == (2, 160)


def test_after_a_quarter_of_an_hour_the_phase_is_still_that_of_the_absolute_time() -> None:
    vocoder = SineBankVocoder(FLOOR)
    stream: SineBankStream = vocoder.stream()
    frame = torch.full((1, 1, 64), math.log(FLOOR))
    frame[0, 0, 33] = 0.0
    frames = 900 * 100
    late = frame.expand(1, frames, 64)
    for block in late.split(6000, 1):
        last = stream.synthesise(block, final=False)
    amplitude = vocoder.amplitudes(frame)[0, 0].double()
    samples = torch.arange(frames * 160 - 1760, frames * 160 - 160, dtype=torch.float64)
    turns = samples[:, None] * torch.from_numpy(band_centres_hz()) / 16_000 + vocoder.first_turns
    turns = torch.remainder(turns, 1)
    expected = (amplitude * torch.sin(2 * math.pi * turns)).sum(1).float()
    torch.testing.assert_close(last[0, -1600:], expected, atol=1e-5, rtol=0)
