import math

import numpy as np
import pytest
import torch

from omniforcing_model.beacons.world import PITCHES
from omniforcing_model.codecs.mel import (
    BANDS,
    HOP,
    LTX2_FLOOR,
    SAMPLE_RATE,
    WINDOW,
    LogMel,
    band_centres_hz,
)


def test_five_seconds_give_501_frames_of_64_bands() -> None:
    assert LogMel()(torch.zeros(2, 80_000)).shape == (2, 501, 64)


def test_silence_sits_on_the_floor() -> None:
    assert LogMel()(torch.zeros(1, 16_000)).unique().item() == torch.tensor(LTX2_FLOOR).log()
    assert LogMel(floor=0.5)(torch.zeros(1, 16_000)).max() == torch.tensor(0.5).log()


def test_the_bands_follow_slaneys_scale() -> None:
    centres = band_centres_hz()
    # Linear up to 1 kHz, then a factor of 6.4 in 27 mels.
    np.testing.assert_allclose(np.diff(centres[:20]), centres[0], rtol=1e-9)
    np.testing.assert_allclose(np.diff(np.log(centres[22:])), np.log(centres[23] / centres[22]))
    filters = LogMel().filters
    assert filters.shape == (513, 64)
    # Unit area per band (Slaney's norm), at a bin width of 15.625 Hz.
    areas = filters.sum(0) * 15.625
    assert areas.min() > 0.9
    assert areas.max() < 1.1


def test_the_beeps_of_the_world_are_loudest_in_the_band_they_are_centred_on() -> None:
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    for hz in PITCHES.values():
        band = int(np.abs(band_centres_hz() - hz).argmin())
        assert abs(band_centres_hz()[band] - hz) < 1e-3
        log_mel = LogMel()(torch.sin(2 * math.pi * hz * time).float()[None])
        assert int(log_mel[0, 50].argmax()) == band


def test_the_front_end_is_ltx_2s() -> None:
    assert (SAMPLE_RATE, WINDOW, HOP, BANDS) == (16_000, 1024, 160, 64)
    assert LTX2_FLOOR == 1e-5
    # 8 kHz is mel 15 + 27 ln(8) / ln(6.4): 65 equal steps of it to the last edge.
    step = (15 + 27 * math.log(8) / math.log(6.4)) / 65
    assert band_centres_hz()[0] == pytest.approx(step * 200 / 3)
    last = 1000 * 6.4 ** ((64 * step - 15) / 27)
    assert band_centres_hz()[-1] == pytest.approx(last)


def test_a_frame_is_centred_on_its_sample() -> None:
    click = torch.zeros(1, 16_000)
    click[0, 50 * 160] = 1
    loudest = LogMel().magnitudes(click)[0].sum(-1)
    assert int(loudest.argmax()) == 50
    assert loudest[49] == pytest.approx(float(loudest[51]), rel=1e-4)
    # A window of 1024 samples reaches 3 frames of 160 to either side.
    assert loudest.nonzero().flatten().tolist() == list(range(47, 54))


def test_a_codec_does_not_save_its_front_end() -> None:
    assert LogMel().state_dict() == {}
