"""Every reason why a row is not in a dataset: what it means, and what its owner can do.

Code that refuses a row takes its reason from here; `dataset show` and the report explain it in
these words. A new reason is a member, in the order in which rows are looked at.
"""

from enum import StrEnum

from infra.dataset.outcome_table import FILTERED, QUARANTINED, OutcomeCounts, OutcomeKind
from infra.records import Record


class Reason(StrEnum):
    """A reason by its name in `outcomes.parquet`, its outcome, its meaning, and what to do."""

    outcome: OutcomeKind
    meaning: str
    advice: str

    def __new__(cls, name: str, outcome: OutcomeKind, meaning: str, advice: str) -> "Reason":
        """A member that is equal to its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.outcome, member.meaning, member.advice = outcome, meaning, advice
        return member

    # What the listing of clips and captions tells; no clip is opened.
    UNREADABLE_NAME = (
        "unreadable_name",
        QUARANTINED,
        "The name of the file is not UTF-8.",
        "Rename the file.",
    )
    UNREADABLE_ARCHIVE = (
        "unreadable_archive",
        QUARANTINED,
        "The archive cannot be read to its end.",
        "Copy it again, or pack it anew as a plain .tar.",
    )
    UNREADABLE_MEMBER = (
        "unreadable_member",
        QUARANTINED,
        "A member of the archive has the name of a clip but is no plain file below it: a link to"
        " what is not there, a device, a sparse file, or a name that leads out.",
        "Pack the archive anew, with the file itself under a relative name.",
    )
    UNSUPPORTED_ARCHIVE = (
        "unsupported_archive",
        QUARANTINED,
        "The archive is compressed, or lies in another one; clips are read from plain .tar alone.",
        "Unpack it, or pack the clips as a plain .tar: they are compressed already.",
    )
    UNSUPPORTED_FORMAT = (
        "unsupported_format",
        QUARANTINED,
        "The name is that of a video in a container that is not read.",
        "Convert it, for example to .mkv, which keeps the tracks as they are.",
    )
    UNREADABLE_FOLDER = (
        "unreadable_folder",
        QUARANTINED,
        "The folder may not be read, so that nobody knows what is in it.",
        "Give the user of the run the right to read it, or take it away.",
    )
    LINKED_FOLDER = (
        "linked_folder",
        QUARANTINED,
        "The folder is a link, which is not followed: out of the folder of the clips it may not"
        " lead, and within it the clips are listed where they are.",
        "Mount or copy the folder there, make a dataset of the folder that it leads to, or remove"
        " the link.",
    )
    UNREADABLE_CAPTION = (
        "unreadable_caption",
        QUARANTINED,
        "There is a text file with the caption, but it is no UTF-8 text, or far too long.",
        "Save it as UTF-8, or give the caption in a table.",
    )
    NO_CAPTION = (
        "no_caption",
        QUARANTINED,
        "No caption was found for the clip.",
        "Add a line to the table of captions, or a .txt file beside the clip.",
    )
    MALFORMED_LINE = (
        "malformed_line",
        QUARANTINED,
        "A line of the table of captions cannot be read, or names no clip.",
        "Correct the line, or delete it.",
    )
    SECOND_CAPTION = (
        "second_caption",
        QUARANTINED,
        "The table gives a clip another caption than in a line before; the first one counts.",
        "Delete the line, or keep the caption that is meant.",
    )
    MISSING_FILE = (
        "missing_file",
        QUARANTINED,
        "The table of captions names a clip that is not in the folder.",
        "Correct the name, copy the clip there, or delete the line.",
    )
    NOT_A_CLIP = (
        "not_a_clip",
        QUARANTINED,
        "The table of captions names a file that is no clip.",
        "Correct the name, or delete the line.",
    )
    OUTSIDE_FOLDER = (
        "outside_folder",
        QUARANTINED,
        "The table of captions names a clip outside the folder; nothing there is opened.",
        "Copy the clip into the folder, and name it by its place there.",
    )

    # What the file tells before its pictures and sound are decoded.
    UNREADABLE = (
        "unreadable",
        QUARANTINED,
        "The file is no clip that can be decoded: broken, cut off, of another format, or one that"
        " takes more processor time than data.decode_timeout_s.",
        "Play it; copy or convert it again, or raise data.decode_timeout_s; then run with"
        " --redrive.",
    )
    DAMAGED = (
        "damaged",
        QUARANTINED,
        "Bytes of the file are not those that were written; pictures or sound of this window, or"
        " what the file says of itself, cannot be trusted.",
        "Copy the file again from where it is whole, then run with --redrive.",
    )
    CHANGED = (
        "changed",
        QUARANTINED,
        "The file was changed while the run was at work: what it holds now is not what was looked"
        " at before.",
        "Run the same command again when nobody writes into the folder of the clips.",
    )
    FAILED = (
        "failed",
        QUARANTINED,
        "A library failed on this clip in a way that we did not foresee.",
        "Convert the clip and run with --redrive; if it fails again, report the error.",
    )
    TOO_LARGE = (
        "too_large",
        FILTERED,
        "The file is larger than data.gates.max_file_mb; it was not opened.",
        "Raise the limit, or cut the clip.",
    )
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        FILTERED,
        "The pictures have more pixels than data.gates.max_source_pixels; none was decoded.",
        "Raise the limit, or scale the clip down.",
    )
    LOW_RESOLUTION = (
        "low_resolution",
        FILTERED,
        "The pictures are smaller than data.gates.min_height or min_width: scaled up they would"
        " be blurred.",
        "Lower the limits, or find a better copy.",
    )
    TOO_SHORT = (
        "too_short",
        FILTERED,
        "The clip, or what is left of it at this place, is shorter than one window of"
        " data.seconds.",
        "Lower data.seconds, or leave the clip out.",
    )
    TOO_LONG = (
        "too_long",
        FILTERED,
        "The clip is longer than data.gates.max_seconds; it was not decoded.",
        "Raise the limit, or cut the clip.",
    )
    NO_AUDIO = (
        "no_audio",
        FILTERED,
        "The clip has no sound track, and the model learns from picture and sound together.",
        "Find a copy with sound, or leave the clip out.",
    )
    VARIABLE_FRAME_RATE = (
        "variable_frame_rate",
        FILTERED,
        "The pictures are unevenly spaced in time, so that motion would jerk at 24 fps.",
        "Raise data.gates.max_frame_jitter, or convert the clip to a constant frame rate.",
    )
    NO_WHOLE_SHOT = (
        "no_whole_shot",
        FILTERED,
        "No shot between two cuts is as long as a window of data.seconds.",
        "Lower data.seconds, raise data.split.shot_threshold, or split by `fixed`.",
    )
    DUPLICATE = (
        "duplicate",
        FILTERED,
        "Another file has exactly the same content; the first by name is kept.",
        "Nothing needs to be done: the content is in the dataset once.",
    )
    CAPTION_TOO_LONG = (
        "caption_too_long",
        FILTERED,
        "The caption has more characters than data.gates.max_caption_chars.",
        "Shorten it, or raise the limit.",
    )
    SOUND_MISSING = (
        "sound_missing",
        FILTERED,
        "The sound track begins after this window does, or ends before: part of the window has"
        " no sound. Other windows of the clip are not concerned.",
        "Raise data.gates.max_missing_sound_s if such windows are wanted.",
    )

    # What its pictures and its sound tell.
    SILENCE = (
        "silence",
        FILTERED,
        "The sound of the window is quieter than data.gates.silence_dbfs: there is nothing to"
        " hear.",
        "Lower the limit if such quiet sound is wanted.",
    )
    CLIPPING = (
        "clipping",
        FILTERED,
        "More samples than data.gates.max_clipped_share are at full scale: the sound is distorted.",
        "Raise the limit, or find a better recording.",
    )
    FROZEN_PICTURE = (
        "frozen_picture",
        FILTERED,
        "More frames than data.gates.max_frozen_share repeat the one before: a still picture, or"
        " a recording that stopped.",
        "Raise the limit if still pictures are wanted.",
    )
    NOT_ENCODABLE = (
        "not_encodable",
        QUARANTINED,
        "The codec gave no finite numbers for the window, or does not take its size.",
        "Look at the clip and at data.height and data.width; then run with --redrive.",
    )

    # What became of its caption.
    CAPTION_REJECTED = (
        "caption_rejected",
        QUARANTINED,
        "The rewritten caption was no good twice: too short or long, not English, a refusal, or"
        " without picture or sound.",
        "Look at the caption and at data.rewriter; then run with --redrive.",
    )
    CAPTION_NOT_ENCODABLE = (
        "caption_not_encodable",
        QUARANTINED,
        "The text encoder gave no finite numbers for the caption.",
        "Look at the caption and at codec.dtype; then run with --redrive.",
    )
    REWRITER_FAILED = (
        "rewriter_failed",
        QUARANTINED,
        "The language model gave no answer for this caption.",
        "Look at its server or its log; then run with --redrive.",
    )


# Of lines, names, folders and archives: where there is no clip that could be looked at.
WITHOUT_A_CLIP = frozenset(
    {
        Reason.UNREADABLE_NAME,
        Reason.UNREADABLE_ARCHIVE,
        Reason.UNREADABLE_MEMBER,
        Reason.UNSUPPORTED_ARCHIVE,
        Reason.UNSUPPORTED_FORMAT,
        Reason.UNREADABLE_FOLDER,
        Reason.LINKED_FOLDER,
        Reason.MALFORMED_LINE,
        Reason.SECOND_CAPTION,
        Reason.MISSING_FILE,
        Reason.NOT_A_CLIP,
        Reason.OUTSIDE_FOLDER,
    }
)


class RefusedRows(Record):
    """How many rows are not in a dataset for one reason, and its explanation.

    `meaning` and `advice` are empty for a reason that another version of this package gave.
    """

    outcome: OutcomeKind
    reason: str
    rows: int
    meaning: str
    advice: str


def explained_counts(counts: OutcomeCounts) -> tuple[RefusedRows, ...]:
    """The refused rows of `counts` by outcome, the most frequent reason first."""
    by_name = {reason.value: reason for reason in Reason}
    refused = []
    kinds: tuple[tuple[OutcomeKind, dict[str, int]], ...] = (
        (FILTERED, counts.filtered),
        (QUARANTINED, counts.quarantined),
    )
    for outcome, rows_by_reason in kinds:
        for name, rows in sorted(rows_by_reason.items(), key=lambda pair: (-pair[1], pair[0])):
            known = by_name.get(name)
            meaning, advice = (known.meaning, known.advice) if known else ("", "")
            refused.append(
                RefusedRows(outcome=outcome, reason=name, rows=rows, meaning=meaning, advice=advice)
            )
    return tuple(refused)
