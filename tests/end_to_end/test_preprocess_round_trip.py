"""What a row's latents give back: the codec's own picture and sound, as late as they were."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from actors.clips.clip_decoder import ClipDecoder
from actors.clips.signal_measures import av_lag_ms
from actors.latents.codec_loading import load_audio_codec, load_video_codec
from infra.dataset.latent_table import LatentTable
from infra.media.files import write_clip
from infra.presets import load_preset
from infra.terminal.progress import SilentProgress
from omniforcing_model.beacons.metrics import audio_onsets, colour_of, video_onsets
from omniforcing_model.beacons.world import FPS, Beacon, render_frames, render_waveform
from omniforcing_model.codecs.mel import SAMPLE_RATE
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import SAMPLE_RATE as CLIP_RATE
from tests.worlds.beacon_clips import write_captions

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
LAGS_MS = (0, 40, -40, 120, -120)
STARTS_S = (0.0, 1.0, 2.0)
CLIP_S = len(STARTS_S)
FRAME_MS = 1000 / FPS
# Another colour in each window. Twice a second: a lag of 120 ms belongs to one flash only.
BEACONS = [Beacon(colour, 2, "high", phase_frames=5) for colour in ("red", "green", "blue")]
CAPTION = "a red beacon, then a green one, then a blue one, 2 Hz, high tone"
# What the codecs of tiny reach on such clips is 40 dB and 0.93. Each pixel has its own colour here;
# they were fitted to pictures in which neighbours shared theirs.
LEAST_PSNR_DB = 39
LEAST_LIKENESS = 0.9


class Row(NamedTuple):
    """One row of the dataset, as it is stored."""

    clip_uri: str
    start_s: float
    video: np.ndarray
    audio: np.ndarray
    av_lag_ms: float


class Shown(NamedTuple):
    """Frames (frames, height, width, 3) and waveform (2, samples) of a window."""

    frames: np.ndarray
    waveform: np.ndarray


def write_late_clip(path, lag_ms):
    """Beacons whose beeps come `lag_ms` after their flashes."""
    parts = [render_frames(beacon, FPS + 1) for beacon in BEACONS]
    frames = np.concatenate([*(part[:FPS] for part in parts), parts[-1][FPS:]])
    late = round(lag_ms / 1000 * CLIP_RATE)
    sound = render_waveform(BEACONS[0], CLIP_S + 1, CLIP_RATE)
    sound = np.pad(sound, (max(late, 0), 0))[max(-late, 0) :]
    sound = sound[: round(len(frames) / FPS * CLIP_RATE)]
    write_clip(path, frames, np.stack((sound, sound)), CLIP_RATE)


@pytest.fixture(scope="module")
def config():
    return load_preset("tiny", ["data.seconds=1", "data.split.kind=fixed"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for lag_ms in LAGS_MS:
        write_late_clip(folder / name_of(lag_ms), lag_ms)
    write_captions(folder, {name_of(lag_ms): CAPTION for lag_ms in LAGS_MS})
    return folder


def name_of(lag_ms):
    return f"late_{lag_ms}_ms.mp4"


@pytest.fixture(scope="module")
def rows(config, clips, tmp_path_factory, ray_local):
    """The rows of the dataset, by clip and start."""
    out = tmp_path_factory.mktemp("out") / "dataset"
    preprocess(config, str(clips), str(out), SilentProgress())
    table = LatentTable.open(out)
    columns = table.read(range(table.rows))
    window_rows = [
        Row(*values) for values in zip(*(columns[name] for name in Row._fields), strict=True)
    ]
    return {(row.clip_uri, row.start_s): row for row in window_rows}


@pytest.fixture(scope="module")
def codecs(config):
    return load_video_codec(config.codec), load_audio_codec(config.codec)


@pytest.fixture(scope="module")
def sources(config, clips, rows):
    """What each window shows before it is encoded."""
    decoder = ClipDecoder(config.data, str(clips), SAMPLE_RATE)
    return {place: Shown(*decoder.decode(*place)[3:5]) for place in rows}


def decoded(codecs, video, audio):
    """Latents of one window, (latents, channels, ...), back to pictures and sound."""
    frames = codecs[0].decode(torch.from_numpy(video)[None])[0]
    levels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    waveform = codecs[1].decode(torch.from_numpy(audio)[None])[0]
    return Shown(levels.permute(0, 2, 3, 1).numpy(), waveform.numpy())


def encoded(codecs, source, latents):
    """Latents of one window, by the codecs alone."""
    frames = torch.from_numpy(source.frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    sound = torch.from_numpy(source.waveform)[None]
    return codecs[0].encode(frames)[0].numpy(), codecs[1].encode(sound, latents)[0].numpy()


def psnr_db(source, decoded_clip):
    error = np.mean((source.astype(np.float64) - decoded_clip) ** 2)
    return 10 * math.log10(255**2 / error)


def likeness(source, decoded_clip):
    """Correlation of the loudness of both every 10 ms; the codec keeps no phase."""
    step, samples = SAMPLE_RATE // 100, min(source.shape[1], decoded_clip.shape[1])
    loud = [
        np.abs(sound.mean(axis=0))[: samples // step * step].reshape(-1, step).mean(axis=1)
        for sound in (source, decoded_clip)
    ]
    return np.corrcoef(*loud)[0, 1]


def lag_ms(shown):
    """How late each beep is after the flash nearest to it: the median."""
    flashes = np.array(video_onsets(shown.frames))
    beeps = np.array(audio_onsets(shown.waveform.mean(axis=0), SAMPLE_RATE))
    lags = beeps[:, None] - flashes[None, :]
    nearest = np.abs(lags).argmin(axis=1)
    return 1000 * float(np.median(lags[np.arange(len(beeps)), nearest]))


def test_every_window_of_every_clip_is_a_row(rows):
    assert rows.keys() == {(name_of(lag), start_s) for lag in LAGS_MS for start_s in STARTS_S}


def test_the_latents_are_those_that_the_codec_gives_for_the_window(rows, codecs, sources):
    for place, row in rows.items():
        video, audio = encoded(codecs, sources[place], len(row.audio))
        np.testing.assert_array_equal(row.video, video)
        np.testing.assert_array_equal(row.audio, audio)


def test_what_is_decoded_is_as_near_to_the_clip_as_the_codecs_come(rows, codecs, sources):
    for place, row in rows.items():
        source, decoded_clip = sources[place], decoded(codecs, row.video, row.audio)
        assert psnr_db(source.frames, decoded_clip.frames) > LEAST_PSNR_DB
        assert likeness(source.waveform, decoded_clip.waveform) > LEAST_LIKENESS


@pytest.mark.parametrize("start_s", STARTS_S)
@pytest.mark.parametrize("known_ms", LAGS_MS)
def test_the_sound_of_a_row_is_as_late_as_it_was_made(rows, codecs, known_ms, start_s):
    row = rows[name_of(known_ms), start_s]
    shown = decoded(codecs, row.video, row.audio)
    assert colour_of(shown.frames) == BEACONS[STARTS_S.index(start_s)].colour
    assert abs(lag_ms(shown) - known_ms) <= FRAME_MS
    assert abs(av_lag_ms(shown.frames, shown.waveform, SAMPLE_RATE) - known_ms) <= FRAME_MS
    assert abs(row.av_lag_ms - known_ms) <= FRAME_MS
