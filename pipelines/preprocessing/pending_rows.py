"""Which rows there are, what is known of each, and what is still to do: joins of Arrow tables.

Runs in a task of its own, so that a listing of millions never passes through the driver. Imports
neither torch nor Ray.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.commit_log import KEY
from infra.dataset.latent_table import SIZE
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED
from pipelines.preprocessing.keys import RecipeDigests, keys

# The columns of a listed clip (pipelines/preprocessing/listing/clips.py).
LISTING = pa.schema(
    [
        ("clip_uri", pa.string()),
        ("clip_bytes", pa.int64()),
        ("clip_modified_ns", pa.int64()),
        ("archive_offset", pa.int64()),
        ("caption_raw", pa.string()),
        ("problem", pa.string()),
        ("error", pa.string()),
    ]
)
FILE = ("clip_uri", "clip_bytes", "clip_modified_ns", "archive_offset")
ENDS = ("outcome", "reason", "error")


class Logs(NamedTuple):
    """What earlier work has left: the three commit logs, and the names of the shards there are."""

    clips: pa.Table
    windows: pa.Table
    captions: pa.Table
    shards: frozenset[str]


def unsurveyed(
    listing: pa.Table, logs: Logs, recipes: RecipeDigests, redrive: bool = False
) -> pa.Table:
    """Listed files that nobody has looked into yet, with their `key`."""
    keyed = _with_clip_keys(listing, recipes)
    unknown = _to_do(_looked_up(keyed[KEY], logs.clips), redrive)
    return keyed.filter(pc.and_(unknown, pc.equal(keyed["problem"], "")))


def all_rows(
    listing: pa.Table,
    logs: Logs,
    recipes: RecipeDigests,
    max_caption_chars: int,
    redrive: bool = False,
) -> pa.Table:
    """Every row with its end so far; `needs_latents` and `needs_text` where there is work to do.

    Args:
        listing: of pipelines/preprocessing/listing/clips.py, all surveyed.
        logs: what is known.
        recipes: of the configuration.
        max_caption_chars: longer captions are refused.
        redrive: try quarantined windows and captions again.
    """
    rows = _windows(_surveyed(listing, logs, recipes), recipes)
    rows = _with_early_ends(rows, max_caption_chars)
    windows = _looked_up(rows["window_key"], _usable(logs.windows, logs.shards))
    captions = _looked_up(rows["caption_key"], _usable(logs.captions, logs.shards))
    open_rows = pc.equal(rows["outcome"], OK)
    needs_latents = pc.and_(open_rows, _to_do(windows, redrive))
    refused = pc.fill_null(pc.not_equal(windows["outcome"], OK), False)
    needs_text = pc.and_(open_rows, _to_do(captions, redrive))
    needs_text = pc.and_(needs_text, pc.or_(pc.invert(refused), needs_latents))
    rows = _ended(rows, windows)
    rows = _ended(rows, captions)
    columns = {
        "needs_latents": needs_latents,
        "needs_text": pc.and_(needs_text, _first_of(rows["caption_key"], needs_text)),
        "window_attempts": pc.fill_null(windows["attempts"], 0),
        "caption_attempts": pc.fill_null(captions["attempts"], 0),
        "caption": pc.coalesce(captions["caption"], pa.scalar("")),
        "rewritten": pc.coalesce(captions["rewritten"], pa.scalar(False)),
        "latents_shard": pc.coalesce(windows["shard"], pa.scalar("")),
        "latents_digest": pc.coalesce(windows["digest"], pa.scalar("")),
        "text_shard": pc.coalesce(captions["shard"], pa.scalar("")),
        "text_digest": pc.coalesce(captions["digest"], pa.scalar("")),
        "av_lag_ms": windows["av_lag_ms"],
        "loudness_lufs": windows["loudness_lufs"],
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    tried = pc.max_element_wise(rows["window_attempts"], rows["caption_attempts"], 1)
    return rows.append_column("attempts", tried)


def _with_clip_keys(listing: pa.Table, recipes: RecipeDigests) -> pa.Table:
    made = keys(recipes.survey, *(listing[name].to_pylist() for name in FILE))
    return listing.append_column(KEY, pa.array(made, pa.string()))


def _surveyed(listing: pa.Table, logs: Logs, recipes: RecipeDigests) -> pa.Table:
    """The listing with what is known of each clip; a problem of the listing is an end."""
    clips = _with_clip_keys(listing, recipes)
    found = _looked_up(clips[KEY], logs.clips)
    fine = pc.equal(clips["problem"], "")
    ends = {
        "outcome": pc.if_else(fine, found["outcome"], QUARANTINED),
        "reason": pc.if_else(fine, found["reason"], clips["problem"]),
        "error": pc.if_else(fine, found["error"], clips["error"]),
        "clip_digest": pc.coalesce(found["clip_digest"], pa.scalar("")),
        "starts_s": found["starts_s"],
        **{name: pc.coalesce(found[name], pa.scalar(0, pa.int64())) for name in SIZE},
    }
    clips = clips.drop_columns(["problem", "error", KEY])
    for name, values in ends.items():
        clips = clips.append_column(name, values)
    return clips


def _windows(clips: pa.Table, recipes: RecipeDigests) -> pa.Table:
    """A row per window; a clip that has none is a row too, which starts at 0."""
    clips = clips.combine_chunks()
    good = pc.equal(clips["outcome"], OK)
    whole = clips.filter(good).combine_chunks()
    starts = whole["starts_s"].combine_chunks()
    cut = whole.drop_columns(["starts_s"]).take(pc.list_parent_indices(starts))
    cut = cut.append_column("start_s", pc.list_flatten(starts))
    rest = clips.filter(pc.invert(good)).drop_columns(["starts_s"])
    rest = rest.append_column("start_s", pa.array([0.0] * rest.num_rows, pa.float64()))
    rows = pa.concat_tables([cut, rest]).combine_chunks()
    digests, starts_s = rows["clip_digest"].to_pylist(), rows["start_s"].to_pylist()
    names, captions = rows["clip_uri"].to_pylist(), rows["caption_raw"].to_pylist()
    # A clip that cannot be read has no digest: its name tells it from others.
    content = [digest or name for digest, name in zip(digests, names, strict=True)]
    window = keys(recipes.latents, content, starts_s, *(rows[name].to_pylist() for name in SIZE))
    caption = keys(recipes.text, content, captions)
    made = {"window_key": window, "caption_key": caption, "row_id": keys("row", window, caption)}
    for name, values in made.items():
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows


def _with_early_ends(rows: pa.Table, max_caption_chars: int) -> pa.Table:
    """Refuse long captions, and a second file with the same content."""
    good = pc.equal(rows["outcome"], OK)
    usable = rows.filter(good)
    firsts = usable.group_by("clip_digest").aggregate([("clip_uri", "min")])
    place = pc.index_in(rows["clip_digest"], value_set=firsts["clip_digest"].combine_chunks())
    first = firsts["clip_uri_min"].take(place)
    again = pc.and_(good, pc.fill_null(pc.not_equal(rows["clip_uri"], first), False))
    said = pc.binary_join_element_wise("expected each clip once, got the content of", first, " ")
    rows = _refused(rows, again, "duplicate", said)
    lengths = pc.utf8_length(rows["caption_raw"])
    long = pc.and_(pc.equal(rows["outcome"], OK), pc.greater(lengths, max_caption_chars))
    expected = f"expected at most {max_caption_chars} characters of caption, got"
    said = pc.binary_join_element_wise(expected, pc.cast(lengths, pa.string()), " ")
    return _refused(rows, long, "caption_too_long", said)


def _refused(rows: pa.Table, which: Any, reason: str, error: Any) -> pa.Table:
    return _replaced(rows, which, {"outcome": FILTERED, "reason": reason, "error": error})


def _ended(rows: pa.Table, found: pa.Table) -> pa.Table:
    """Take over the end that a log has for rows that are good so far."""
    good = pc.equal(rows["outcome"], OK)
    bad = pc.and_(good, pc.fill_null(pc.not_equal(found["outcome"], OK), False))
    return _replaced(rows, bad, {name: found[name] for name in ENDS})


def _replaced(rows: pa.Table, which: Any, values: dict[str, Any]) -> pa.Table:
    for name, value in values.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, pc.if_else(which, value, rows[name]))
    return rows


def _usable(log: pa.Table, shards: frozenset[str]) -> pa.Table:
    """Without entries whose shard is gone."""
    there = pc.is_in(log["shard"], value_set=pa.array(sorted(shards), pa.string()))
    return log.filter(pc.or_(there, pc.not_equal(log["outcome"], OK)))


def _looked_up(wanted: Any, log: pa.Table) -> pa.Table:
    """The entry for each of the `wanted` keys, nulls where there is none."""
    return log.combine_chunks().take(pc.index_in(wanted, value_set=log[KEY].combine_chunks()))


def _to_do(found: pa.Table, redrive: bool) -> Any:
    absent = pc.is_null(found["outcome"])
    if not redrive:
        return absent
    return pc.or_(absent, pc.fill_null(pc.equal(found["outcome"], QUARANTINED), False))


def _first_of(values: Any, among: Any) -> Any:
    """Whether a row is the first with its value, of those that are `among`."""
    numbers = pa.array(range(len(values)), pa.int64())
    table = pa.table({"value": values, "number": numbers}).filter(among)
    firsts = table.group_by("value").aggregate([("number", "min")])["number_min"]
    return pc.is_in(numbers, value_set=firsts.combine_chunks())
