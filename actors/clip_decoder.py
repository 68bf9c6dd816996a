"""Clips to pictures and sound: probe, gates, decode. One clip at a time, whatever it holds."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.config import DataConfig
from infra.errors import MediaError
from infra.media_files import ClipProbe, probe, read_frames, read_waveform
from infra.object_store import ObjectStore
from infra.outcome_table import FILTERED, OK, QUARANTINED, OutcomeKind
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds

_COLOURS = 3
_STEREO = 2
# A clip of 5.0 s at 24 fps holds 120 frames, and the clip we train on 121: one may be repeated.
_REPEATABLE_FRAMES = 1
_ROUNDING_S = 0.01
_MB = 1_000_000


class DecodedClip(NamedTuple):
    """The end of one clip. frames: (frames, height, width, 3) uint8; waveform: (2, samples)."""

    outcome: OutcomeKind
    reason: str
    error: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]


class _RefusedError(Exception):
    """A gate refuses the clip: its reason, and a sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class ClipDecoder:
    """Decodes the first `seconds` of clips at 24 fps and the configured size; never raises for one.

    Longer clips are cut, other sizes scaled to cover and cropped, any sound becomes stereo.
    """

    def __init__(self, data: DataConfig, clips: str, sample_rate: int) -> None:
        """Read clips below `clips` (a path or URI); sound is resampled to `sample_rate`."""
        self._data = data
        self._store = ObjectStore(clips)
        self._sample_rate = sample_rate
        self._frames = frames_for_seconds(data.seconds)
        self._seconds = self._frames / VIDEO_FPS
        self._samples = math.ceil(self._seconds * sample_rate)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `frames`, `waveform`, `outcome`, `reason` and `error` to rows with a `clip_uri`.

        A row that is not `ok` carries empty pictures and silence of the same shape.
        """
        clips = [self.decode(str(name)) for name in batch["clip_uri"]]
        columns: dict[str, NDArray[Any]] = {
            "frames": np.stack([clip.frames for clip in clips]),
            "waveform": np.stack([clip.waveform for clip in clips]),
        }
        for name in ("outcome", "reason", "error"):
            columns[name] = np.array([getattr(clip, name) for clip in clips], dtype=object)
        return {**batch, **columns}

    def decode(self, name: str) -> DecodedClip:
        """Decode the clip called `name`; what is wrong with it is its outcome, not an error."""
        try:
            with self._store.local_file(name) as path:
                size_mb = path.stat().st_size / _MB
                if size_mb == 0:
                    raise MediaError(f"expected a clip, got an empty file {path}; copy it again")
                found = probe(path)
                refuse_by_header(found, size_mb, self._data)
                frames = self._whole_frames(path)
                waveform = read_waveform(
                    path, self._sample_rate, _STEREO, self._seconds, self._data.decode_timeout_s
                )
                refuse_silence(waveform, self._data.silence_dbfs)
        except _RefusedError as error:
            return self._nothing(FILTERED, error.reason, str(error))
        except (MediaError, OSError) as error:
            return self._nothing(QUARANTINED, "unreadable", str(error))
        except Exception as error:  # noqa: BLE001  # a decoder may fail in any way; the run goes on
            return self._nothing(QUARANTINED, "failed", f"{type(error).__name__}: {error}")
        return DecodedClip(OK, "", "", frames, _of_length(waveform, self._samples))

    def _whole_frames(self, path: Any) -> NDArray[np.uint8]:
        size = (self._data.height, self._data.width)
        timeout_s = self._data.decode_timeout_s
        frames = read_frames(path, VIDEO_FPS, size, self._frames, timeout_s)
        missing = self._frames - len(frames)
        if missing > _REPEATABLE_FRAMES:
            raise _RefusedError(
                "too_short", f"expected {self._frames} frames at {VIDEO_FPS} fps, got {len(frames)}"
            )
        return np.concatenate([frames, *[frames[-1:]] * missing]) if missing else frames

    def _nothing(self, outcome: OutcomeKind, reason: str, error: str) -> DecodedClip:
        size = (self._frames, self._data.height, self._data.width, _COLOURS)
        silence = np.zeros((_STEREO, self._samples), np.float32)
        text = " ".join(error.split())
        return DecodedClip(outcome, reason, text, np.zeros(size, np.uint8), silence)


def refuse_by_header(found: ClipProbe, size_mb: float, data: DataConfig) -> None:
    """Apply the gates that need no decoding, cheapest first; raises what `ClipDecoder` records."""
    seconds = found.duration_s
    if size_mb > data.max_file_mb:
        raise _RefusedError(
            "too_large", f"expected at most {data.max_file_mb:g} MB, got {size_mb:.1f} MB"
        )
    if seconds < data.seconds - _ROUNDING_S:
        raise _RefusedError("too_short", f"expected at least {data.seconds} s, got {seconds:.2f} s")
    if seconds > data.max_seconds:
        raise _RefusedError(
            "too_long", f"expected at most {data.max_seconds:g} s, got {seconds:.1f} s"
        )
    if not found.has_audio:
        raise _RefusedError("no_audio", "expected a sound track, got none")
    drift_s = abs(seconds - found.audio_duration_s)
    if found.audio_duration_s and drift_s > data.max_track_drift_s:
        raise _RefusedError(
            "track_drift",
            f"expected tracks of one length within {data.max_track_drift_s:g} s, got"
            f" {seconds:.2f} s of picture and {found.audio_duration_s:.2f} s of sound",
        )


def refuse_silence(waveform: NDArray[np.float32], silence_dbfs: float) -> None:
    """Refuse sound, (channels, samples), whose RMS is below `silence_dbfs`."""
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    loudness_dbfs = 20 * math.log10(rms) if rms > 0 else -math.inf
    if loudness_dbfs < silence_dbfs:
        raise _RefusedError(
            "silence", f"expected sound above {silence_dbfs:g} dBFS, got {loudness_dbfs:.0f} dBFS"
        )


def _of_length(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    cut = waveform[:, :samples]
    return np.pad(cut, ((0, 0), (0, samples - cut.shape[1])))
