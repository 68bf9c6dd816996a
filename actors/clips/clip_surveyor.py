"""A look at a clip without decoding it whole: digest, gates, and where its windows begin."""

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.clips.blame import StoredClip, clip_fault
from actors.clips.gates import file_refusal, header_refusal, packet_refusal
from actors.clips.shot_windows import window_starts_s
from actors.clips.size_buckets import nearest_size
from infra.config import DataConfig, FrameSize
from infra.dataset.columns import OUTCOME_COLUMNS, SIZE, Column
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED, OutcomeKind
from infra.dataset.reasons import Reason
from infra.errors import MediaError
from infra.media.survey import ClipSurvey
from infra.storage.object_store import confined_store


class Survey(NamedTuple):
    """What a clip is: `sha256:...` of its bytes ("" if they cannot be read), its outcome so far,
    where its windows begin, in seconds, and the size of its rows (none and 0 unless it is `ok`)."""

    clip_digest: str
    outcome: OutcomeKind
    reason: str
    error: str
    starts_s: tuple[float, ...] = ()
    height: int = 0
    width: int = 0


class ClipSurveyor:
    """Applies the gates that need no decoding and finds the windows; never raises for a clip."""

    def __init__(self, data: DataConfig, clips: str) -> None:
        """Survey clips below `clips` (a path or URI)."""
        self._data = data
        self._store = confined_store(clips)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `clip_digest`, `outcome`, `reason`, `error`, `starts_s` (a list in each row),
        `height` and `width`.

        Reads `clip_uri`, `archive_offset` (-1: not in an archive), `clip_bytes`, `problem` and
        `error`. A row with a `problem` is quarantined for it, and its clip is not opened.
        """
        names = (Column.CLIP_URI, Column.ARCHIVE_OFFSET, Column.CLIP_BYTES)
        problems = (Column.PROBLEM, Column.ERROR)
        surveys = [
            Survey("", QUARANTINED, str(problem), str(error))
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
        sizes = {
            name: np.array([getattr(survey, name) for survey in surveys], dtype=np.int64)
            for name in SIZE
        }
        starts = np.empty(len(surveys), dtype=object)
        for row, survey in enumerate(surveys):
            starts[row] = list(survey.starts_s)
        return {**batch, **columns, **sizes, Column.STARTS_S: starts}

    def survey(self, name: str, archive_offset: int = -1, clip_bytes: int = 0) -> Survey:
        """Survey the clip called `name`, or `clip_bytes` of the archive called so.

        What is wrong with it is its outcome, not an error.
        """
        digest = ""
        path: Path | None = None
        try:
            with self._store.local_file(name, archive_offset, clip_bytes) as path:
                _check_file(path)
                with path.open("rb") as content:
                    digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
                return self._survey_file(path, digest)
        except Exception as error:  # noqa: BLE001  # a library may fail in any way; the run goes on
            clip = StoredClip(self._store, name, archive_offset, clip_bytes)
            fault = clip_fault(error, clip, path)
            return Survey(digest, QUARANTINED, fault.reason, fault.sentence)

    def _survey_file(self, path: Path, digest: str) -> Survey:
        refusal = file_refusal(path.stat().st_size, self._data.gates)
        if refusal is None:
            survey = ClipSurvey(path, self._data.decode_timeout_s)
            clip = survey.header()
            refusal = header_refusal(clip, self._data)
        if refusal is None:
            times = survey.packets()
            if not times.whole:
                raise MediaError(
                    f"expected all packets that the header of {path} counts, got"
                    f" {times.video_s:.2f} s of picture and {times.audio_s:.2f} s of sound; the"
                    " file is truncated, drop it"
                )
            refusal = packet_refusal(times, clip.has_audio, self._data)
        if refusal is not None:
            return Survey(digest, FILTERED, refusal.reason, refusal.sentence)
        starts_s = window_starts_s(path, clip, times.video_s, self._data)
        if not starts_s:
            sentence = f"expected a shot of {self._data.seconds} s or more, got none"
            return Survey(digest, FILTERED, Reason.NO_WHOLE_SHOT, sentence)
        size = self._size(survey)
        return Survey(digest, OK, "", "", starts_s, size.height, size.width)

    def _size(self, survey: ClipSurvey) -> FrameSize:
        first, *others = self._data.sizes
        if not others:
            return first
        return nearest_size(survey.aspect(), (first, *others))


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise MediaError(f"expected a clip, got {path}, which is no file; name another")
    if status.st_size == 0:
        raise MediaError(f"expected a clip, got an empty file {path}; copy it again")
