"""The names of a dataset's columns and folders, once for all who write or read them.

A row is a window of a clip, or a clip that has none. Some columns stand in a result of Ray Data
alone, others in files: of listings and plans (`work/`), of the log, of the outcomes, of rows and
tensors.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa


class Folder:
    """Folders of a dataset."""

    ROWS: Final = "rows"
    LATENTS: Final = "latents"
    TEXT: Final = "text"
    # Of files whose rows hold all their tensors, as those of trajectories do.
    SHARDS: Final = "shards"
    LOG: Final = "log"
    # What a run keeps until it commits; below it a folder of each attempt, and these in that.
    WORK: Final = "work"
    LISTING: Final = "listing"
    SURVEY_PLAN: Final = "survey"
    ROW_PLAN: Final = "rows"


class Column:
    """Columns by what they say, in the order in which a row gets them."""

    # The file of a clip and its caption, as they are listed; `problem`: why it cannot be opened.
    CLIP_URI: Final = "clip_uri"
    CLIP_BYTES: Final = "clip_bytes"
    CLIP_MODIFIED_NS: Final = "clip_modified_ns"
    ARCHIVE_OFFSET: Final = "archive_offset"
    CAPTION_RAW: Final = "caption_raw"
    PROBLEM: Final = "problem"
    # What has become of a row so far.
    OUTCOME: Final = "outcome"
    REASON: Final = "reason"
    ERROR: Final = "error"
    # What the survey of a clip tells: its content, how far it looked, and what it measured. NaN is
    # what was not measured. Times are on the clock on which windows start.
    CLIP_DIGEST: Final = "clip_digest"
    LOOKS: Final = "looks"
    SOURCE_HEIGHT: Final = "source_height"
    SOURCE_WIDTH: Final = "source_width"
    SOURCE_PIXELS: Final = "source_pixels"
    SOURCE_FPS: Final = "source_fps"
    HEADER_S: Final = "header_s"
    PICTURE_S: Final = "picture_s"
    SOUND_TRACKS: Final = "sound_tracks"
    SOUND_BEGINS_S: Final = "sound_begins_s"
    SOUND_ENDS_S: Final = "sound_ends_s"
    PICTURE_JITTER: Final = "picture_jitter"
    ASPECT: Final = "aspect"
    STARTS_S: Final = "starts_s"
    # What follows from that: how many windows it has, where one starts, and the size of its rows.
    WINDOW_COUNT: Final = "window_count"
    START_S: Final = "start_s"
    HEIGHT: Final = "height"
    WIDTH: Final = "width"
    # What is known of a row before it is worked on.
    CAPTION_CHARS: Final = "caption_chars"
    SOUND_MISSING_S: Final = "sound_missing_s"
    # The sources of a row, by key, what it still needs, and how often that was tried.
    WINDOW_KEY: Final = "window_key"
    CAPTION_KEY: Final = "caption_key"
    NEEDS_LATENTS: Final = "needs_latents"
    NEEDS_TEXT: Final = "needs_text"
    WINDOW_ATTEMPTS: Final = "window_attempts"
    CAPTION_ATTEMPTS: Final = "caption_attempts"
    ATTEMPTS: Final = "attempts"
    # A decoded window and what was measured on it.
    FRAMES: Final = "frames"
    WAVEFORM: Final = "waveform"
    DECODED_FRAMES: Final = "decoded_frames"
    RMS_DBFS: Final = "rms_dbfs"
    CLIPPED_SHARE: Final = "clipped_share"
    FROZEN_SHARE: Final = "frozen_share"
    AV_LAG_MS: Final = "av_lag_ms"
    LOUDNESS_LUFS: Final = "loudness_lufs"
    # The caption that a model learns from, and what has become of it.
    CAPTION: Final = "caption"
    REWRITTEN: Final = "rewritten"
    TEXT_OUTCOME: Final = "text_outcome"
    TEXT_REASON: Final = "text_reason"
    TEXT_ERROR: Final = "text_error"
    # Tensors.
    VIDEO: Final = "video"
    AUDIO: Final = "audio"
    VIDEO_TEXT: Final = "video_text"
    AUDIO_TEXT: Final = "audio_text"
    VIDEO_STATES: Final = "video_states"
    AUDIO_STATES: Final = "audio_states"
    # What a trajectory was sampled for: the id of a dataset's row, and the digest of its text.
    PROMPT_ROW: Final = "prompt_row"
    PROMPT_DIGEST: Final = "prompt_digest"
    # An entry of a log: the key that is done, the file of its tensors, and what these are.
    KEY: Final = "key"
    SHARD: Final = "shard"
    DIGEST: Final = "digest"
    # A row in a file: the digest of its sources, and of what it holds.
    ROW_ID: Final = "row_id"
    ROW_DIGEST: Final = "row_digest"
    # Where its tensors are; see `TensorPlace`.
    LATENTS_SHARD: Final = "latents_shard"
    LATENTS_KEY: Final = "latents_key"
    LATENTS_DIGEST: Final = "latents_digest"
    TEXT_SHARD: Final = "text_shard"
    TEXT_KEY: Final = "text_key"
    TEXT_DIGEST: Final = "text_digest"
    # A piece of a plan: a file, its first row of that file, and their number.
    PART: Final = "part"
    FIRST: Final = "first"
    ROWS: Final = "rows"


class TensorPlace(NamedTuple):
    """Columns of a row that say where some of its tensors are: the file, the id of their row there,
    and the digest of what they are."""

    shard: str
    key: str
    digest: str


# Columns with the seconds that a stage took for each row: this, and the stage's name.
SECONDS_OF: Final = "seconds_of_"

CLIP_FILE = (
    Column.CLIP_URI,
    Column.CLIP_BYTES,
    Column.CLIP_MODIFIED_NS,
    Column.ARCHIVE_OFFSET,
)
LISTED_CLIP = (*CLIP_FILE, Column.CAPTION_RAW, Column.PROBLEM, Column.ERROR)
OUTCOME_COLUMNS = (Column.OUTCOME, Column.REASON, Column.ERROR)
# As OUTCOME_COLUMNS, of a caption.
TEXT_OUTCOME_COLUMNS = (Column.TEXT_OUTCOME, Column.TEXT_REASON, Column.TEXT_ERROR)
SIZE = (Column.HEIGHT, Column.WIDTH)
SCORES = (Column.AV_LAG_MS, Column.LOUDNESS_LUFS)
# All that is measured on a decoded window.
SIGNAL_MEASURES = (
    Column.DECODED_FRAMES,
    Column.RMS_DBFS,
    Column.CLIPPED_SHARE,
    Column.FROZEN_SHARE,
    *SCORES,
)
# All that the survey of a clip measures.
CLIP_MEASURES = (
    Column.SOURCE_HEIGHT,
    Column.SOURCE_WIDTH,
    Column.SOURCE_PIXELS,
    Column.SOURCE_FPS,
    Column.HEADER_S,
    Column.PICTURE_S,
    Column.SOUND_TRACKS,
    Column.SOUND_BEGINS_S,
    Column.SOUND_ENDS_S,
    Column.PICTURE_JITTER,
    Column.ASPECT,
)
WORDS = (Column.CAPTION, Column.REWRITTEN)
IDS = (Column.ROW_ID, Column.ROW_DIGEST)
LATENT_TENSORS = (Column.VIDEO, Column.AUDIO)
# Text features by the stream that attends to them.
TEXT_TENSORS = {"video": Column.VIDEO_TEXT, "audio": Column.AUDIO_TEXT}
# States of a trajectory, by stream.
STATE_TENSORS = {"video": Column.VIDEO_STATES, "audio": Column.AUDIO_STATES}

LATENTS_PLACE = TensorPlace(Column.LATENTS_SHARD, Column.LATENTS_KEY, Column.LATENTS_DIGEST)
TEXT_PLACE = TensorPlace(Column.TEXT_SHARD, Column.TEXT_KEY, Column.TEXT_DIGEST)
TENSORS_OF = {LATENTS_PLACE: LATENT_TENSORS, TEXT_PLACE: tuple(TEXT_TENSORS.values())}
TENSOR_PLACES = tuple(TENSORS_OF)
# Where a row came from, and which files hold its tensors: a moved clip is the same data.
NOT_CONTENT = (Column.CLIP_URI, Column.ROW_DIGEST, *(place.shard for place in TENSOR_PLACES))

# The columns that the survey of a clip, and the stages of a row, get.
SURVEY_PLAN = (
    Column.KEY,
    Column.CLIP_URI,
    Column.CLIP_BYTES,
    Column.ARCHIVE_OFFSET,
    Column.PROBLEM,
    Column.ERROR,
)
ROW_PLAN = (
    *CLIP_FILE,
    Column.CLIP_DIGEST,
    Column.START_S,
    *SIZE,
    Column.CAPTION_RAW,
    Column.WINDOW_KEY,
    Column.CAPTION_KEY,
    Column.WINDOW_ATTEMPTS,
    Column.CAPTION_ATTEMPTS,
    Column.NEEDS_LATENTS,
    Column.NEEDS_TEXT,
    *OUTCOME_COLUMNS,
)
# A row of a dataset without the places of its tensors.
DATASET_ROW = (
    Column.ROW_ID,
    Column.CLIP_URI,
    Column.CLIP_DIGEST,
    Column.START_S,
    *SIZE,
    Column.CAPTION_RAW,
    *WORDS,
    *SCORES,
    LATENTS_PLACE.digest,
    TEXT_PLACE.digest,
)
CLIP_ENTRY = (
    Column.KEY,
    *OUTCOME_COLUMNS,
    Column.CLIP_DIGEST,
    Column.LOOKS,
    *CLIP_MEASURES,
    Column.STARTS_S,
)
_RESULT = (Column.SHARD, Column.DIGEST, Column.ATTEMPTS)
WINDOW_ENTRY = (Column.KEY, *OUTCOME_COLUMNS, *_RESULT, *SIGNAL_MEASURES)
CAPTION_ENTRY = (Column.KEY, *OUTCOME_COLUMNS, *_RESULT, *WORDS)
OUTCOME_ROW = (
    Column.CLIP_URI,
    Column.START_S,
    Column.CLIP_BYTES,
    Column.CLIP_MODIFIED_NS,
    Column.CLIP_DIGEST,
    Column.ROW_ID,
    Column.CAPTION_RAW,
    *WORDS,
    *OUTCOME_COLUMNS,
    Column.ATTEMPTS,
    *SIGNAL_MEASURES,
)

# Of the columns that files hold; all others are strings.
_TYPES = {
    Column.CLIP_BYTES: pa.int64(),
    Column.CLIP_MODIFIED_NS: pa.int64(),
    Column.ARCHIVE_OFFSET: pa.int64(),
    Column.STARTS_S: pa.list_(pa.float64()),
    Column.START_S: pa.float64(),
    Column.HEIGHT: pa.int64(),
    Column.WIDTH: pa.int64(),
    Column.ATTEMPTS: pa.int64(),
    Column.LOOKS: pa.int64(),
    **dict.fromkeys((*CLIP_MEASURES, *SIGNAL_MEASURES), pa.float64()),
    Column.REWRITTEN: pa.bool_(),
}


def schema(names: Iterable[str]) -> pa.Schema:
    """The columns `names` of listing, log, outcomes or ids, with the type of each."""
    return pa.schema([(name, _TYPES.get(name, pa.string())) for name in names])
