"""A look at a clip without decoding it whole: digest, measures, and where its windows begin.

The looks go deeper one after the other, and a gate that refuses the clip ends them: a clip that is
too large is not opened, one that is too long is not decoded.
"""

import hashlib
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.clips.blame import StoredClip, clip_fault
from actors.clips.gates import (
    CUT_GATES,
    FILE_GATES,
    HEADER_GATES,
    PACKET_GATES,
    Refusal,
    limits_of,
    refusal,
)
from actors.clips.shot_windows import window_starts_s
from infra.config import DataConfig
from infra.dataset.columns import CLIP_MEASURES, OUTCOME_COLUMNS, Column
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED, OutcomeKind
from infra.errors import MediaError
from infra.media.files import ClipProbe
from infra.media.packets import PacketTimes
from infra.media.survey import ClipSurvey
from infra.storage.object_store import confined_store

# How many looks a clip that is `ok` has had: at the file, its headers, its packets, its pictures.
ALL_LOOKS = 4


class Survey(NamedTuple):
    """What a clip is: `sha256:...` of its bytes ("" if they were not read), and its outcome so far.

    looks: how many it has had, with the one that failed. measures: `CLIP_MEASURES`, NaN where it
    was not looked so deep. starts_s: of its windows, in seconds; none but after all looks.
    """

    clip_digest: str
    outcome: OutcomeKind
    reason: str
    error: str
    looks: int
    measures: dict[str, float]
    starts_s: tuple[float, ...]


@dataclass
class _Found:
    """What is known of a clip so far."""

    digest: str = ""
    looks: int = 0
    measures: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(CLIP_MEASURES, math.nan)
    )
    starts_s: tuple[float, ...] = ()

    def as_survey(self, outcome: OutcomeKind, reason: str, error: str) -> Survey:
        return Survey(self.digest, outcome, reason, error, self.looks, self.measures, self.starts_s)


class ClipSurveyor:
    """Measures clips, applies the gates that need no decoding, and finds the windows; never raises
    for a clip."""

    def __init__(self, data: DataConfig, clips: str) -> None:
        """Survey clips below `clips` (a path or URI)."""
        self._data = data
        self._limits = limits_of(data)
        self._store = confined_store(clips)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `clip_digest`, `outcome`, `reason`, `error`, `looks`, `CLIP_MEASURES` and `starts_s`
        (a list in each row).

        Reads `clip_uri`, `archive_offset` (-1: not in an archive), `clip_bytes`, `problem` and
        `error`. A row with a `problem` is quarantined for it, and its clip is not opened.
        """
        names = (Column.CLIP_URI, Column.ARCHIVE_OFFSET, Column.CLIP_BYTES)
        problems = (Column.PROBLEM, Column.ERROR)
        surveys = [
            _Found().as_survey(QUARANTINED, str(problem), str(error))
            if problem
            else self.survey(str(name), int(offset), int(clip_bytes))
            for name, offset, clip_bytes, problem, error in zip(
                *(batch[name] for name in (*names, *problems)), strict=True
            )
        ]
        columns = {
            name: np.array([getattr(survey, name) for survey in surveys], dtype=object)
            for name in (Column.CLIP_DIGEST, *OUTCOME_COLUMNS)
        }
        measures = {
            name: np.array([survey.measures[name] for survey in surveys], dtype=np.float64)
            for name in CLIP_MEASURES
        }
        looks = np.array([survey.looks for survey in surveys], dtype=np.int64)
        starts = np.empty(len(surveys), dtype=object)
        for row, survey in enumerate(surveys):
            starts[row] = list(survey.starts_s)
        return {**batch, **columns, **measures, Column.LOOKS: looks, Column.STARTS_S: starts}

    def survey(self, name: str, archive_offset: int = -1, clip_bytes: int = 0) -> Survey:
        """Survey the clip called `name`, or `clip_bytes` of the archive called so.

        What is wrong with it is its outcome, not an error.
        """
        found = _Found()
        path: Path | None = None
        try:
            # Of a clip in object storage the size is known before it is fetched.
            refused = self._file_refusal(clip_bytes)
            if refused is None:
                with self._store.local_file(name, archive_offset, clip_bytes) as path:
                    refused = self._look_into(path, found)
        except Exception as error:  # noqa: BLE001  # a library may fail in any way; the run goes on
            clip = StoredClip(self._store, name, archive_offset, clip_bytes)
            fault = clip_fault(error, clip, path)
            return found.as_survey(QUARANTINED, fault.reason, fault.sentence)
        if refused is not None:
            return found.as_survey(FILTERED, refused.reason, refused.sentence)
        return found.as_survey(OK, "", "")

    def _file_refusal(self, size_bytes: int) -> Refusal | None:
        return refusal({Column.CLIP_BYTES: size_bytes}, FILE_GATES, self._limits)

    def _look_into(self, path: Path, found: _Found) -> Refusal | None:
        """Look deeper and deeper, until a gate refuses the clip or all is known."""
        found.looks += 1
        if refused := self._file_refusal(_checked_size(path)):
            return refused
        with path.open("rb") as content:
            found.digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        found.looks += 1
        survey = ClipSurvey(path, self._data.decode_timeout_s)
        clip = survey.header()
        found.measures |= _header_measures(clip)
        if refused := refusal(found.measures, HEADER_GATES, self._limits):
            return refused
        found.looks += 1
        times = survey.packets()
        if not times.whole:
            raise MediaError(
                f"expected all packets that the header of {path} counts, got"
                f" {times.video_s:.2f} s of picture and {times.audio_s:.2f} s of sound; the"
                " file is truncated, drop it"
            )
        found.measures |= _packet_measures(times, clip)
        if refused := refusal(found.measures, PACKET_GATES, self._limits):
            return refused
        found.looks += 1
        found.measures[Column.ASPECT] = survey.aspect()
        found.starts_s = window_starts_s(path, clip, times.video_s, self._data)
        return refusal({Column.WINDOW_COUNT: len(found.starts_s)}, CUT_GATES, self._limits)


def _header_measures(clip: ClipProbe) -> dict[str, float]:
    return {
        Column.SOURCE_HEIGHT: clip.height,
        Column.SOURCE_WIDTH: clip.width,
        Column.SOURCE_PIXELS: clip.height * clip.width,
        Column.SOURCE_FPS: clip.fps,
        # Recordings of a stream do not tell their length: that is for the packets.
        Column.HEADER_S: clip.duration_s or math.nan,
    }


def _packet_measures(times: PacketTimes, clip: ClipProbe) -> dict[str, float]:
    return {
        Column.PICTURE_S: times.video_s,
        # Not sooner, though headers tell it: a file that is cut off in them has lost its tracks.
        Column.SOUND_TRACKS: int(clip.has_audio),
        Column.SOUND_BEGINS_S: times.sound_start_s if clip.has_audio else math.nan,
        Column.SOUND_ENDS_S: times.sound_end_s if clip.has_audio else math.nan,
        Column.PICTURE_JITTER: times.frame_jitter,
    }


def _checked_size(path: Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise MediaError(f"expected a clip, got {path}, which is no file; name another")
    if status.st_size == 0:
        raise MediaError(f"expected a clip, got an empty file {path}; copy it again")
    return status.st_size
