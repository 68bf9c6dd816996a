"""Windows of clips to pictures and sound: decoded, measured, and refused by gates on that."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.clips.blame import StoredClip, check_source, clip_fault
from actors.clips.gates import REPEATABLE_FRAMES, SIGNAL_GATES, limits_of, refusal
from actors.clips.loudness import with_gain
from actors.clips.signal_measures import signal_measures
from infra.config import DataConfig, FrameSize
from infra.dataset.columns import OUTCOME_COLUMNS, SIGNAL_MEASURES, Column
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED, OutcomeKind
from infra.dataset.reasons import Reason
from infra.media.files import read_window
from infra.storage.fetched_files import FetchedFiles
from infra.storage.object_store import confined_store
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds

_COLOURS = 3
_STEREO = 2


class DecodedClip(NamedTuple):
    """What became of one window. frames: (frames, height, width, 3) uint8; waveform: (2, samples).

    measures: `SIGNAL_MEASURES`, of the sound before it was brought to the configured loudness; NaN
    where nothing was decoded.
    """

    outcome: OutcomeKind
    reason: str
    error: str
    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    measures: dict[str, float]


class ClipDecoder:
    """Decodes windows of clips at 24 fps and their row's size; never raises for one.

    Pictures are scaled to cover and cropped, any sound becomes stereo.
    """

    def __init__(self, data: DataConfig, clips: str, sample_rate: int) -> None:
        """Read clips below `clips` (a path or URI); sound is resampled to `sample_rate`."""
        self._data = data
        self._limits = limits_of(data)
        self._store = confined_store(clips)
        # The windows of a clip are neighbours: all are cut from one copy.
        self._files = FetchedFiles(self._store)
        self._sample_rate = sample_rate
        self._frames = frames_for_seconds(data.seconds)
        self._seconds = self._frames / VIDEO_FPS
        self._samples = math.ceil(self._seconds * sample_rate)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `frames`, `waveform` and `SIGNAL_MEASURES`; renew the outcome.

        Reads `clip_uri`, `archive_offset` (-1: not in an archive), `clip_bytes`,
        `clip_modified_ns`, `clip_digest` (what it was when it was surveyed), `start_s`, `height`,
        `width`, `needs_latents`, `outcome`, `reason` and `error`. A row that needs no
        latents or is not `ok` passes with its outcome. What was not decoded has no pictures,
        silence, and NaN; so `frames` is an array of arrays.
        """
        rows = len(batch[Column.CLIP_URI])
        frames = np.empty(rows, object)
        waveforms = np.zeros((rows, _STEREO, self._samples), np.float32)
        measures = {name: np.full(rows, np.nan) for name in SIGNAL_MEASURES}
        outcomes = {name: np.array(batch[name], object) for name in OUTCOME_COLUMNS}
        for row in range(rows):
            frames[row] = self._no_frames
            if not batch[Column.NEEDS_LATENTS][row] or outcomes[Column.OUTCOME][row] != OK:
                continue
            clip = self.decode(
                str(batch[Column.CLIP_URI][row]),
                float(batch[Column.START_S][row]),
                int(batch[Column.ARCHIVE_OFFSET][row]),
                int(batch[Column.CLIP_BYTES][row]),
                FrameSize(
                    height=int(batch[Column.HEIGHT][row]), width=int(batch[Column.WIDTH][row])
                ),
                int(batch[Column.CLIP_MODIFIED_NS][row]),
                str(batch[Column.CLIP_DIGEST][row]),
            )
            frames[row], waveforms[row] = clip.frames, clip.waveform
            for name, values in measures.items():
                values[row] = clip.measures[name]
            for name, values in outcomes.items():
                values[row] = getattr(clip, name)
        return {
            **batch,
            **outcomes,
            **measures,
            Column.FRAMES: frames,
            Column.WAVEFORM: waveforms,
        }

    def decode(
        self,
        name: str,
        start_s: float = 0.0,
        archive_offset: int = -1,
        clip_bytes: int = 0,
        size: FrameSize | None = None,
        modified_ns: int = 0,
        digest: str = "",
    ) -> DecodedClip:
        """Decode the window from `start_s` on of the clip called `name`, or of `clip_bytes` of the
        archive called so; what is wrong with it is its outcome, not an error.

        size: of the pictures; the first one of the configuration if None. modified_ns: when it was
        changed, as it is listed; digest: what its content has to be, anything if empty.
        """
        path: Path | None = None
        clip = StoredClip(self._store, name, archive_offset, clip_bytes)
        try:
            path, now = self._files.get(name, archive_offset, clip_bytes, modified_ns)
            if digest and now not in (None, digest):
                sentence = f"expected {name} as it was surveyed, got other content; run again"
                return self._without_signal(QUARANTINED, Reason.CHANGED, sentence)
            decoded = self._window(path, start_s, size or self._data.sizes[0])
        except Exception as error:  # noqa: BLE001  # a decoder may fail in any way; the run goes on
            fault = clip_fault(error, clip, path)
            return self._without_signal(QUARANTINED, fault.reason, fault.sentence)
        if decoded.reason == Reason.TOO_SHORT:
            check_source(clip)
        return decoded

    @property
    def _no_frames(self) -> NDArray[np.uint8]:
        return np.zeros((0, self._data.height, self._data.width, _COLOURS), np.uint8)

    def _window(self, path: Path, start_s: float, size: FrameSize) -> DecodedClip:
        timeout_s, shape = self._data.decode_timeout_s, (size.height, size.width)
        frames, sound = read_window(
            path, self._seconds, shape, self._sample_rate, timeout_s, start_s
        )
        if not sound.size:  # the track begins later or has ended: nothing is heard
            sound = np.zeros((_STEREO, self._samples), np.float32)
        missing = self._frames - len(frames)
        if missing > REPEATABLE_FRAMES:  # of so short an end the sound says nothing
            sound = sound[:, :0]
        measures = signal_measures(frames, sound, self._sample_rate)
        if refused := refusal(measures, SIGNAL_GATES, self._limits):
            refused_clip = self._without_signal(FILTERED, refused.reason, refused.sentence)
            return refused_clip._replace(measures=measures)
        frames = np.concatenate([frames, *[frames[-1:]] * missing]) if missing else frames
        if self._data.loudness_lufs is not None:
            lufs = measures[Column.LOUDNESS_LUFS]
            sound = with_gain(sound, lufs, self._data.loudness_lufs)
        return DecodedClip(OK, "", "", frames, _fit_length(sound, self._samples), measures)

    def _without_signal(self, outcome: OutcomeKind, reason: str, error: str) -> DecodedClip:
        silence = np.zeros((_STEREO, self._samples), np.float32)
        unknown = dict.fromkeys(SIGNAL_MEASURES, math.nan)
        return DecodedClip(outcome, reason, error, self._no_frames, silence, unknown)


def _fit_length(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    cut = waveform[:, :samples]
    return np.pad(cut, ((0, 0), (0, samples - cut.shape[1])))
