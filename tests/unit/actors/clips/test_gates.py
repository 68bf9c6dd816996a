import math
from pathlib import Path

import numpy as np
import pytest

from actors.clips.gates import (
    av_lag_ms,
    error_line,
    file_refusal,
    frozen_share,
    header_refusal,
    packet_refusal,
    rms_dbfs,
    signal_refusal,
)
from infra.media.files import ClipProbe
from infra.media.packets import PacketTimes
from infra.presets import load_preset

RATE = 16_000


def data(*overrides):
    return load_preset("tiny", ["data.seconds=1", *overrides]).data


def header(**changes):
    plain = {"container": "mov,mp4", "duration_s": 2.0, "fps": 24.0, "width": 64, "height": 48}
    tracks = {"frames": 48, "video_track": 0, "audio_track": 1, "audio_duration_s": 2.0}
    sound = {"sample_rate": 48_000, "channels": 2}
    return ClipProbe(**(plain | tracks | sound | changes))


def packets(**changes):
    return PacketTimes(2.0, 2.0, 0.02, 0.01, True)._replace(**changes)


def noise(frames=25, size=32):
    return np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)


def tone(amplitude=0.5):
    return np.repeat(amplitude * np.sin(np.arange(RATE) / 5)[None], 2, 0).astype(np.float32)


def test_the_size_of_a_file_is_limited():
    assert file_refusal(1_000_000, data("data.gates.max_file_mb=1").gates) is None
    assert file_refusal(1_000_001, data("data.gates.max_file_mb=1").gates) is not None
    refusal = file_refusal(2_000_000, data("data.gates.max_file_mb=1").gates)
    assert refusal == ("too_large", "expected at most 1 MB, got 2.0 MB")


@pytest.mark.parametrize(
    ("changes", "override", "reason"),
    [
        ({}, "data.gates.max_source_pixels=3000", "too_many_pixels"),
        ({}, "data.gates.min_height=49", "low_resolution"),
        ({}, "data.gates.min_width=65", "low_resolution"),
        ({"duration_s": 0.9}, "data.gates.max_seconds=5", "too_short"),
        ({"duration_s": 5.1}, "data.gates.max_seconds=5", "too_long"),
    ],
)
def test_what_the_header_says_is_limited(changes, override, reason):
    assert header_refusal(header(), data()) is None
    refusal = header_refusal(header(**changes), data(override))
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.sentence.startswith("expected at ")


def test_a_header_at_every_limit_passes():
    limits = ("max_source_pixels=3072", "min_height=48", "min_width=64", "max_seconds=5")
    limited = data(*(f"data.gates.{limit}" for limit in limits))
    assert header_refusal(header(duration_s=5.0), limited) is None
    assert header_refusal(header(duration_s=0.995), limited) is None


@pytest.mark.parametrize(
    ("changes", "override", "sentence"),
    [
        ({}, "max_source_pixels=3071", "expected at most 3071 pixels, got 64 x 48"),
        ({}, "min_width=65", "expected at least 65 x 32, got 64 x 48"),
        ({"duration_s": 0.985}, "max_seconds=5", "expected at least 1 s, got 0.98 s"),
        ({"duration_s": 5.1}, "max_seconds=5", "expected at most 5 s, got 5.1 s"),
    ],
)
def test_a_refused_header_says_the_limit_and_what_it_has(changes, override, sentence):
    refusal = header_refusal(header(**changes), data(f"data.gates.{override}"))
    assert refusal is not None
    assert refusal.sentence == sentence


def test_tracks_may_drift_by_the_limit_and_two_packets_of_sound():
    gate = "data.gates.max_track_drift_s=0.125"
    padded = {"audio_packet_s": 0.0625}
    assert packet_refusal(packets(audio_s=2.25, **padded), True, data(gate)) is None
    assert packet_refusal(packets(audio_s=1.75, **padded), True, data(gate)) is None
    refusal = packet_refusal(packets(audio_s=2.26, **padded), True, data(gate))
    assert refusal is not None
    assert refusal.sentence == (
        "expected tracks of one length within 0.125 s, got 2.00 s of picture and 2.26 s of sound"
    )


def test_frames_may_be_uneven_up_to_the_limit():
    gate = "data.gates.max_frame_jitter=0.25"
    assert packet_refusal(packets(frame_jitter=0.25), True, data(gate)) is None
    refusal = packet_refusal(packets(frame_jitter=0.26), True, data(gate))
    assert refusal is not None
    assert refusal.sentence == "expected frames of one spacing within 0.25 of it, got 0.26"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"video_s": 0.5, "audio_s": 0.5}, "too_short"),
        ({"audio_s": 1.8}, "track_drift"),
        ({"audio_s": 2.2}, "track_drift"),
        ({"frame_jitter": 0.3}, "variable_frame_rate"),
    ],
)
def test_what_the_packets_say_is_limited(changes, reason):
    assert packet_refusal(packets(), True, data()) is None
    refusal = packet_refusal(packets(**changes), True, data())
    assert refusal is not None
    assert refusal.reason == reason


def test_a_clip_without_a_sound_track_has_no_audio():
    refusal = packet_refusal(packets(audio_s=0.0), False, data())
    assert refusal == ("no_audio", "expected a sound track, got none")


def test_long_packets_of_sound_may_pad_it():
    assert packet_refusal(packets(audio_s=2.3, audio_packet_s=0.128), True, data()) is None


def test_picture_and_sound_must_carry_something():
    gates = data().gates
    assert signal_refusal(noise(), tone(), gates) is None
    reasons = [
        signal_refusal(noise(), tone(1e-4), gates),
        signal_refusal(noise(), np.sign(tone()), gates),
        signal_refusal(np.repeat(noise(1), 25, 0), tone(), gates),
    ]
    assert [refusal and refusal.reason for refusal in reasons] == [
        "silence",
        "clipping",
        "frozen_picture",
    ]


def test_the_share_of_clipped_samples_is_limited_and_said():
    gates = data("data.gates.max_clipped_share=0.25").gates
    quarter = np.full((2, 16), 0.5, np.float32)
    quarter[:, :4] = 0.99
    assert signal_refusal(noise(), quarter, gates) is None
    quarter[0, 4] = -1
    refusal = signal_refusal(noise(), quarter, gates)
    assert refusal == (
        "clipping",
        "expected at most 0.25 of samples at full scale, got 0.281",
    )
    quarter[:, :5] = 0.98
    assert signal_refusal(noise(), quarter, gates) is None


def test_the_share_of_frozen_frames_is_limited_and_said():
    frames = np.concatenate([noise(3), noise(3)[-1:], noise(3)[-1:]])
    assert signal_refusal(frames, tone(), data("data.gates.max_frozen_share=0.5").gates) is None
    refusal = signal_refusal(frames, tone(), data("data.gates.max_frozen_share=0.49").gates)
    assert refusal == (
        "frozen_picture",
        "expected at most 0.49 of frames to repeat the one before, got 0.500",
    )


def test_sound_at_the_level_of_silence_passes():
    level = np.full((2, 16), 0.125, np.float32)
    gates = data().gates.model_copy(update={"silence_dbfs": rms_dbfs(level)})
    assert signal_refusal(noise(), level, gates) is None
    refusal = signal_refusal(noise(), level / 2, gates)
    assert refusal == ("silence", "expected sound above -18.0618 dBFS, got -24 dBFS")


@pytest.mark.parametrize(("side", "frozen"), [(255, 0.0), (256, 1.0), (383, 1.0)])
def test_large_pictures_are_compared_at_every_second_pixel(side, frozen):
    frames = np.zeros((2, side, side, 3), np.uint8)
    frames[1, 1::2, 1::2] = 9
    assert frozen_share(frames) == frozen


def test_a_change_of_three_grey_levels_is_one():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1, 0, 0] = 2
    assert frozen_share(frames) == 1
    frames[1, 0, 0] = 3
    assert frozen_share(frames) == 0


def test_an_error_names_the_clip_and_not_its_copy_on_one_line():
    error = OSError("cannot read /tmp/copy.mp4:\n  no such\tfile")
    assert error_line(error, Path("/tmp/copy.mp4"), "a.mp4") == "cannot read a.mp4: no such file"
    assert error_line(error, None, "a.mp4") == "cannot read /tmp/copy.mp4: no such file"


def test_frames_that_repeat_are_counted_but_for_coding_noise():
    frames = np.repeat(noise(5) // 2, 2, 0)
    assert frozen_share(frames) == 5 / 9
    frames[1::2] += 2
    assert frozen_share(frames) == 5 / 9
    assert frozen_share(frames[:1]) == 0


def test_the_level_of_a_sine_is_three_decibels_below_its_peak():
    assert rms_dbfs(tone(1.0)) == pytest.approx(-3.01, abs=0.05)
    assert rms_dbfs(np.zeros((2, 9), np.float32)) == -math.inf


def events(lag_ms, seconds=3):
    """Noise pictures that change twice, and bursts of noise that lag behind."""
    rng = np.random.default_rng(1)
    frames = np.repeat(noise(1), seconds * 24 + 1, 0) // 8
    wave = rng.normal(0, 0.001, (2, seconds * RATE))
    for frame in (20, 51):
        frames[frame:] = rng.integers(0, 256, frames[0].shape, np.uint8) // 2
        begin = round((frame / 24 + lag_ms / 1000) * RATE)
        wave[:, begin : begin + 4000] += rng.normal(0, 0.2, (2, 4000))
    return frames, wave


@pytest.mark.parametrize("lag_ms", [0, 60, -60, 200, -200, 450])
def test_the_lag_of_events_of_any_kind_is_measured(lag_ms):
    assert av_lag_ms(*events(lag_ms), RATE) == pytest.approx(lag_ms, abs=15)


@pytest.mark.parametrize(
    ("lag_ms", "steps"), [(0, 0), (60, 14), (-60, -14), (200, 48), (-450, -108)]
)
def test_the_lag_is_a_whole_number_of_tenths_of_a_frame(lag_ms, steps):
    assert av_lag_ms(*events(lag_ms), RATE) == pytest.approx(steps * 1000 / 240)


def test_a_lag_is_sought_within_half_a_second():
    frames, wave = events(0)
    frames[24:] = frames[23]
    late = np.zeros_like(wave)
    late[:, round((20 / 24 + 0.7) * RATE) :][:, :4000] = 0.2
    assert math.isnan(av_lag_ms(frames, late, RATE))


@pytest.mark.parametrize(("rows", "is_onset"), [(6, True), (4, True), (3, False)])
def test_a_picture_changes_from_half_a_grey_level_on(rows, is_onset):
    _, wave = events(0)
    frames = np.full((73, 8, 8, 3), 100, np.uint8)
    frames[20:, :rows] += 1
    assert math.isnan(av_lag_ms(frames, wave, RATE)) is not is_onset


@pytest.mark.parametrize(("level", "is_onset"), [(0.006, True), (0.004, False)])
def test_sound_rises_from_a_two_hundredth_of_full_scale_on(level, is_onset):
    frames, wave = events(0)
    steady = np.zeros_like(wave)
    steady[:, RATE:] = level
    assert math.isnan(av_lag_ms(frames, steady, RATE)) is not is_onset


def test_without_an_onset_there_is_no_lag():
    frames, wave = events(0)
    assert math.isnan(av_lag_ms(frames, np.zeros_like(wave), RATE))
    assert math.isnan(av_lag_ms(np.repeat(frames[:1], len(frames), 0), wave, RATE))
    assert math.isnan(av_lag_ms(frames[:1], wave[:, :600], RATE))
