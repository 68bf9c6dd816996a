"""What comes out of a window of a clip, and what the gates on the signal say."""

import hashlib
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.loudness import integrated_lufs
from infra.dataset.columns import SIGNAL_MEASURES
from infra.media.files import write_clip
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from tests.worlds.beacon_clips import SAMPLE_RATE, truncated, write_beacon_clip
from tests.worlds.media.ffmpeg import run_ffmpeg
from tests.worlds.media_zoo import Making, shown_lag_ms, write_flashes
from tests.worlds.s3_server import credentials, fetches, make_bucket, s3_server

RATE = 16_000
FRAME_MS = 1000 / 24
# The measure of a lag goes in tenths of a frame.
STEP_MS = FRAME_MS / 10


def decoder(folder, *overrides):
    return ClipDecoder(load_preset("tiny", ["data.seconds=1", *overrides]).data, str(folder), RATE)


def end(folder, name, *overrides):
    clip = decoder(folder, *overrides).decode(name)
    return clip.outcome, clip.reason, clip.error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_beacon_clip(folder / "good.mp4")
    write_beacon_clip(folder / "long.mp4", seconds=3)
    return folder


def test_a_good_clip_gives_pictures_and_sound_of_one_length(folder):
    clip = decoder(folder).decode("good.mp4")
    assert (clip.outcome, clip.reason, clip.error) == ("ok", "", "")
    assert clip.frames.shape == (25, 64, 64, 3)
    assert clip.frames.max() > 200
    assert clip.waveform.shape == (2, 16_667)
    assert 0.2 < np.abs(clip.waveform).max() <= 1


def test_a_longer_clip_gives_its_first_seconds(folder):
    long, short = (decoder(folder).decode(name) for name in ("long.mp4", "good.mp4"))
    assert long.outcome == "ok"
    assert np.abs(long.frames.astype(int) - short.frames).mean() < 2


def test_a_later_window_is_what_the_whole_clip_shows_there(folder):
    write_beacon_clip(folder / "four.mp4", seconds=4)
    whole = decoder(folder, "data.seconds=4").decode("four.mp4")
    for start in (3, 51):
        window = decoder(folder).decode("four.mp4", start / 24)
        np.testing.assert_array_equal(window.frames, whole.frames[start : start + 25])
        begin = round(start / 24 * RATE)
        expected = whole.waveform[:, begin : begin + 16_000]
        assert np.sqrt(np.mean((window.waveform[:, :16_000] - expected) ** 2)) < 1e-3


def test_any_picture_size_is_scaled_to_cover_and_cropped(folder):
    frames = np.full((25, 90, 160, 3), 200, np.uint8)
    frames[::2] = 190
    sound = np.sin(np.arange(50_000) / 20)[None].astype(np.float32) / 2
    write_clip(folder / "wide.mp4", frames, sound, SAMPLE_RATE)
    assert decoder(folder).decode("wide.mp4").frames.min() > 150


def test_a_clip_of_exactly_the_seconds_is_long_enough(folder):
    frames = np.zeros((24, 64, 64, 3), np.uint8)
    frames[::2] = 100
    frames[-1] = 250
    sound = np.sin(np.arange(48_000) / 20)[None].astype(np.float32) / 2
    write_clip(folder / "exact.mp4", frames, sound, SAMPLE_RATE)
    clip = decoder(folder).decode("exact.mp4")
    assert clip.outcome == "ok"
    assert (clip.frames[-1] == clip.frames[-2]).all()


def test_a_window_that_reaches_behind_the_end_is_too_short(folder):
    clip = decoder(folder).decode("long.mp4", 2.5)
    assert (clip.outcome, clip.reason) == ("filtered", "too_short")
    assert clip.error == "expected 25 frames at 24 fps, got 13"


@pytest.fixture(scope="module")
def half_mute(folder):
    """Pictures of 3 s, sound of the first one: in a container that tells so, and in one that does
    not."""
    frames = np.zeros((72, 64, 64, 3), np.uint8)
    frames[::2] = 100
    sound = np.sin(np.arange(48_000) / 20)[None].astype(np.float32) / 2
    write_clip(folder / "half_mute.mp4", frames, sound, SAMPLE_RATE)
    run_ffmpeg("-i", folder / "half_mute.mp4", "-c", "copy", folder / "half_mute.mkv")
    return folder


@pytest.mark.parametrize("name", ["half_mute.mp4", "half_mute.mkv"])
def test_a_window_that_the_sound_track_does_not_reach_is_silent_where_that_gate_lets_it(
    half_mute, name
):
    assert decoder(half_mute).decode(name).outcome == "ok"
    mute = decoder(half_mute).decode(name, 2.0)
    assert (mute.outcome, mute.reason) == ("filtered", "silence")
    assert mute.error == "expected sound above -60 dBFS, got -inf dBFS"
    wanted = decoder(half_mute, "data.gates.silence_dbfs=-.inf").decode(name, 2.0)
    assert wanted.outcome == "ok"
    assert wanted.frames.shape == (25, 64, 64, 3)
    assert not wanted.waveform.any()


def test_a_silent_clip_is_refused(folder):
    write_beacon_clip(folder / "silent.mp4", loudness=0)
    outcome, reason, error = end(folder, "silent.mp4")
    assert (outcome, reason) == ("filtered", "silence")
    assert error.startswith("expected sound above -60 dBFS, got -")


@pytest.mark.parametrize(
    ("flaw", "reason", "gate"),
    [
        ("clipped", "clipping", "max_clipped_share"),
        ("frozen", "frozen_picture", "max_frozen_share"),
    ],
)
def test_a_signal_that_carries_too_little_is_refused(folder, flaw, reason, gate):
    write_flashes(folder / f"{flaw}.mp4", Making(flaw=flaw))
    refused = decoder(folder).decode(f"{flaw}.mp4")
    assert (refused.outcome, refused.reason) == ("filtered", reason)
    assert not any(math.isnan(refused.measures[name]) for name in SIGNAL_MEASURES[:4])
    assert end(folder, f"{flaw}.mp4", f"data.gates.{gate}=1")[0] == "ok"


def test_a_truncated_clip_is_damaged(folder):
    write_beacon_clip(folder / "whole.mp4", seconds=3)
    truncated(folder / "whole.mp4", folder / "truncated.mp4")
    outcome, reason, error = end(folder, "truncated.mp4", "data.seconds=3")
    assert (outcome, reason) == ("quarantined", "damaged")
    assert "truncated.mp4" in error


def test_a_file_that_is_gone_is_unreadable(folder):
    assert end(folder, "gone.mp4")[:2] == ("quarantined", "unreadable")


def test_a_clip_that_decodes_too_slowly_is_unreadable(folder):
    outcome, reason, error = end(folder, "good.mp4", "data.decode_timeout_s=0.001")
    assert (outcome, reason) == ("quarantined", "unreadable")
    assert "within 0.001 s of processor time, got a timeout" in error


def rows(names, **columns):
    count = len(names)
    batch = {
        "clip_uri": np.array(names, dtype=object),
        "archive_offset": np.full(count, -1),
        "clip_bytes": np.zeros(count, np.int64),
        "clip_modified_ns": np.zeros(count, np.int64),
        "clip_digest": np.array([""] * count, dtype=object),
        "start_s": np.zeros(count),
        "height": np.full(count, 64),
        "width": np.full(count, 64),
        "needs_latents": np.ones(count, bool),
        "outcome": np.array(["ok"] * count, dtype=object),
        "reason": np.array([""] * count, dtype=object),
        "error": np.array([""] * count, dtype=object),
    }
    return batch | {name: np.array(values) for name, values in columns.items()}


def test_a_batch_keeps_its_order_and_its_columns(folder):
    batch = decoder(folder)(rows(["gone.mp4", "good.mp4"], caption=["a", "b"]))
    assert list(batch["outcome"]) == ["quarantined", "ok"]
    assert list(batch["caption"]) == ["a", "b"]
    assert [frames.shape for frames in batch["frames"]] == [(0, 64, 64, 3), (25, 64, 64, 3)]
    assert batch["waveform"].dtype == np.float32
    assert np.isnan(batch["av_lag_ms"]).tolist() == [True, False]
    assert np.isnan(batch["loudness_lufs"]).tolist() == [True, False]


def test_every_row_has_pictures_of_its_own_size(folder):
    batch = decoder(folder)(rows(["good.mp4"] * 2, height=[64, 32], width=[64, 96]))
    assert [frames.shape for frames in batch["frames"]] == [(25, 64, 64, 3), (25, 32, 96, 3)]


def test_rows_that_need_no_latents_or_ended_before_are_not_decoded(folder):
    outcomes = np.array(["ok", "filtered", "quarantined"], dtype=object)
    reasons = np.array(["", "no_audio", "unreadable"], dtype=object)
    batch_in = rows(["good.mp4"] * 3, outcome=outcomes, reason=reasons, needs_latents=[0, 1, 1])
    batch = decoder(folder)(batch_in)
    assert list(batch["outcome"]) == list(outcomes)
    assert list(batch["reason"]) == list(reasons)
    assert [len(frames) for frames in batch["frames"]] == [0, 0, 0]
    assert not batch["waveform"].any()


def test_no_rows_give_no_rows(folder):
    assert len(decoder(folder)(rows([]))["frames"]) == 0


def test_sound_is_brought_to_the_configured_loudness_and_its_own_is_recorded(folder):
    plain = decoder(folder).decode("good.mp4")
    quiet = decoder(folder, "data.loudness_lufs=-40").decode("good.mp4")
    assert quiet.measures["loudness_lufs"] == plain.measures["loudness_lufs"]
    assert integrated_lufs(plain.waveform, RATE) == pytest.approx(
        plain.measures["loudness_lufs"], abs=0.1
    )
    assert integrated_lufs(quiet.waveform, RATE) == pytest.approx(-40, abs=0.1)
    loud = decoder(folder, "data.loudness_lufs=-1").decode("good.mp4")
    assert np.abs(loud.waveform).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)


CONTAINERS = [
    ("mp4", "libx264", "aac"),
    ("mkv", "libx264", "libopus"),
    ("webm", "libvpx-vp9", "libopus"),
]


@pytest.mark.parametrize(("container", "video", "audio"), CONTAINERS)
@pytest.mark.parametrize("lag_ms", [0, 40, -40, 120, -120])
def test_a_known_lag_of_the_sound_comes_out_within_a_frame(
    tmp_path, container, video, audio, lag_ms
):
    making = Making(container, video, audio, seconds=3.0, lag_ms=lag_ms)
    name = f"late.{container}"
    write_flashes(tmp_path / name, making)
    for start_s in (0.0, 41 / 24):
        clip = decoder(tmp_path).decode(name, start_s)
        assert clip.outcome == "ok", clip.error
        assert abs(clip.measures["av_lag_ms"] - lag_ms) <= FRAME_MS, start_s


UNEVEN = Making(seconds=3.0, lag_ms=120)


@pytest.mark.parametrize(
    "making",
    [
        replace(UNEVEN, start_s=1.4),
        replace(UNEVEN, container="ts", sample_rate=8_000),
        replace(UNEVEN, container="ts", video="libx265", start_s=0.7),
        replace(UNEVEN, container="avi", video="mpeg4", audio="libmp3lame", rate="12"),
        replace(UNEVEN, container="mkv", audio="libmp3lame", rate="30000/1001", start_s=0.3),
        replace(UNEVEN, container="mov", rate="60", channels=8, sample_rate=96_000),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 1.0])
def test_offsets_priming_and_reordered_frames_do_not_move_the_sound(tmp_path, making, start_s):
    name = f"uneven.{making.container}"
    write_flashes(tmp_path / name, making)
    clip = decoder(tmp_path).decode(name, start_s)
    assert clip.outcome == "ok", clip.error
    assert abs(clip.measures["av_lag_ms"] - shown_lag_ms(making)) <= FRAME_MS + STEP_MS


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (270, (0, -1))])
def test_a_turned_picture_comes_out_upright(tmp_path, rotation, corner):
    making = Making(seconds=1.2, width=96, height=96, rotation=rotation, corner=True)
    write_flashes(tmp_path / "turned.mp4", making)
    frame = decoder(tmp_path).decode("turned.mp4").frames[0].astype(int)
    corners = {place: frame[place] for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    brightest = max(corners, key=lambda place: corners[place].sum())
    assert brightest == corner


def outcome_of(batch):
    return [(batch["outcome"][row], batch["reason"][row]) for row in range(len(batch["outcome"]))]


def test_all_windows_of_a_clip_in_object_storage_are_cut_from_one_copy(tmp_path, monkeypatch):
    write_beacon_clip(tmp_path / "long.mp4", seconds=4)
    log = tmp_path / "requests"
    with s3_server(log=log) as endpoint:
        credentials(monkeypatch, endpoint)
        uri = make_bucket(endpoint)
        store = ObjectStore(uri)
        store.write("long.mp4", (tmp_path / "long.mp4").read_bytes())
        worker = decoder(uri)
        names = ["long.mp4"] * 4
        digests = np.array([store.digest("long.mp4")] * 4, dtype=object)
        before = fetches(log, "clips/long.mp4")
        for _ in range(2):  # a worker gets the windows of a clip in several calls
            batch = worker(rows(names, start_s=[0.0, 1.0, 2.0, 2.9], clip_digest=digests))
            assert outcome_of(batch) == [("ok", "")] * 4
        assert fetches(log, "clips/long.mp4") - before == 1


@pytest.mark.parametrize("archive", [False, True])
def test_a_clip_that_has_changed_since_it_was_surveyed_is_quarantined(tmp_path, archive):
    write_beacon_clip(tmp_path / "clip.mp4", seconds=1)
    content = (tmp_path / "clip.mp4").read_bytes()
    name, offset, path = "clip.mp4", -1, tmp_path / "clip.mp4"
    if archive:
        name, offset, path = "pack.tar/clip.mp4", 0, tmp_path / "pack.tar"
        path.write_bytes(content)
    os.utime(path, ns=(5, 5))
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    listed = {"archive_offset": [offset], "clip_bytes": [len(content)], "clip_modified_ns": [5]}

    def outcome():
        surveyed = {"clip_digest": np.array([digest], dtype=object)}
        batch = decoder(tmp_path)(rows([name], **listed, **surveyed))
        return outcome_of(batch)[0], batch["error"][0]

    assert outcome()[0] == ("ok", "")
    os.utime(path, ns=(7, 7))
    assert outcome()[0] == ("ok", ""), "another time alone is no other content"
    write_beacon_clip(tmp_path / "other.mp4", number=3, seconds=1)
    other = (tmp_path / "other.mp4").read_bytes()
    path.write_bytes(other.ljust(len(content), b"\0")[: len(content)])
    assert outcome() == (
        ("quarantined", "changed"),
        f"expected {name} as it was surveyed, got other content; run again",
    )
