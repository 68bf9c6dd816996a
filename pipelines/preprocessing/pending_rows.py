"""Which rows there are, what is known of each, and what is still to do: joins of Arrow tables.

Runs in a task of its own, so that a listing of millions never passes through the driver. Imports
neither torch nor Ray.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset.columns import CLIP_FILE, LISTED_CLIP, OUTCOME_COLUMNS, SIZE, Column, schema
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED
from infra.dataset.reasons import Reason
from pipelines.preprocessing.keys import RecipeDigests, keys

# Of the clips that pipelines/preprocessing/listing/clips.py lists.
LISTING_SCHEMA = schema(LISTED_CLIP)


class Logs(NamedTuple):
    """What earlier work has left: the three commit logs, and the names of the shards there are."""

    clips: pa.Table
    windows: pa.Table
    captions: pa.Table
    shards: frozenset[str]


def clips_to_survey(
    listing: pa.Table, logs: Logs, recipes: RecipeDigests, redrive: bool = False
) -> pa.Table:
    """Listed files that nobody has looked into yet, with their `key`."""
    keyed = _add_clip_keys(listing, recipes)
    pending = _is_pending(_entries(keyed[Column.KEY], logs.clips), redrive)
    return keyed.filter(pc.and_(pending, pc.equal(keyed[Column.PROBLEM], "")))


def all_rows(
    listing: pa.Table,
    logs: Logs,
    recipes: RecipeDigests,
    max_caption_chars: int,
    redrive: bool = False,
) -> pa.Table:
    """Every row with its outcome so far; `needs_latents` and `needs_text` where there is work to
    do.

    Args:
        listing: of pipelines/preprocessing/listing/clips.py, all surveyed.
        logs: what is known.
        recipes: of the configuration.
        max_caption_chars: longer captions are refused.
        redrive: try quarantined windows and captions again.
    """
    rows = _split_into_windows(_join_surveys(listing, logs, recipes), recipes)
    rows = _refuse_duplicates(rows)
    rows = _refuse_long_captions(rows, max_caption_chars)
    windows = _entries(rows[Column.WINDOW_KEY], _with_shards(logs.windows, logs.shards))
    captions = _entries(rows[Column.CAPTION_KEY], _with_shards(logs.captions, logs.shards))
    open_rows = pc.equal(rows[Column.OUTCOME], OK)
    needs_latents = pc.and_(open_rows, _is_pending(windows, redrive))
    refused = pc.fill_null(pc.not_equal(windows[Column.OUTCOME], OK), False)
    needs_text = pc.and_(open_rows, _is_pending(captions, redrive))
    needs_text = pc.and_(needs_text, pc.or_(pc.invert(refused), needs_latents))
    rows = _take_bad_outcomes(rows, windows)
    rows = _take_bad_outcomes(rows, captions)
    columns = {
        Column.NEEDS_LATENTS: needs_latents,
        Column.NEEDS_TEXT: pc.and_(needs_text, _is_first(rows[Column.CAPTION_KEY], needs_text)),
        Column.WINDOW_ATTEMPTS: pc.fill_null(windows[Column.ATTEMPTS], 0),
        Column.CAPTION_ATTEMPTS: pc.fill_null(captions[Column.ATTEMPTS], 0),
        Column.CAPTION: pc.coalesce(captions[Column.CAPTION], pa.scalar("")),
        Column.REWRITTEN: pc.coalesce(captions[Column.REWRITTEN], pa.scalar(False)),
        Column.LATENTS_SHARD: pc.coalesce(windows[Column.SHARD], pa.scalar("")),
        Column.LATENTS_DIGEST: pc.coalesce(windows[Column.DIGEST], pa.scalar("")),
        Column.TEXT_SHARD: pc.coalesce(captions[Column.SHARD], pa.scalar("")),
        Column.TEXT_DIGEST: pc.coalesce(captions[Column.DIGEST], pa.scalar("")),
        Column.AV_LAG_MS: windows[Column.AV_LAG_MS],
        Column.LOUDNESS_LUFS: windows[Column.LOUDNESS_LUFS],
    }
    rows = _append_columns(rows, columns)
    attempts = pc.max_element_wise(rows[Column.WINDOW_ATTEMPTS], rows[Column.CAPTION_ATTEMPTS], 1)
    return rows.append_column(Column.ATTEMPTS, attempts)


def _add_clip_keys(listing: pa.Table, recipes: RecipeDigests) -> pa.Table:
    clip_keys = keys(recipes.survey, *(listing[name].to_pylist() for name in CLIP_FILE))
    return listing.append_column(Column.KEY, pa.array(clip_keys, pa.string()))


def _join_surveys(listing: pa.Table, logs: Logs, recipes: RecipeDigests) -> pa.Table:
    """The listing with what is known of each clip; a problem of the listing is its outcome."""
    clips = _add_clip_keys(listing, recipes)
    surveys = _entries(clips[Column.KEY], logs.clips)
    openable = pc.equal(clips[Column.PROBLEM], "")
    columns = {
        Column.OUTCOME: pc.if_else(openable, surveys[Column.OUTCOME], QUARANTINED),
        Column.REASON: pc.if_else(openable, surveys[Column.REASON], clips[Column.PROBLEM]),
        Column.ERROR: pc.if_else(openable, surveys[Column.ERROR], clips[Column.ERROR]),
        Column.CLIP_DIGEST: pc.coalesce(surveys[Column.CLIP_DIGEST], pa.scalar("")),
        Column.STARTS_S: surveys[Column.STARTS_S],
        **{name: pc.coalesce(surveys[name], pa.scalar(0, pa.int64())) for name in SIZE},
    }
    clips = clips.drop_columns([Column.PROBLEM, Column.ERROR, Column.KEY])
    return _append_columns(clips, columns)


def _split_into_windows(clips: pa.Table, recipes: RecipeDigests) -> pa.Table:
    """A row per window; a clip that has none is a row too, which starts at 0."""
    clips = clips.combine_chunks()
    good = pc.equal(clips[Column.OUTCOME], OK)
    whole = clips.filter(good).combine_chunks()
    starts = whole[Column.STARTS_S].combine_chunks()
    cut = whole.drop_columns([Column.STARTS_S]).take(pc.list_parent_indices(starts))
    cut = cut.append_column(Column.START_S, pc.list_flatten(starts))
    rest = clips.filter(pc.invert(good)).drop_columns([Column.STARTS_S])
    zeros = pa.array([0.0] * rest.num_rows, pa.float64())
    rest = rest.append_column(Column.START_S, zeros)
    rows = pa.concat_tables([cut, rest]).combine_chunks()
    digests, starts_s = (rows[n].to_pylist() for n in (Column.CLIP_DIGEST, Column.START_S))
    names, captions = (rows[n].to_pylist() for n in (Column.CLIP_URI, Column.CAPTION_RAW))
    # A clip that cannot be read has no digest: its name tells it from others.
    content = [digest or name for digest, name in zip(digests, names, strict=True)]
    window = keys(recipes.latents, content, starts_s, *(rows[name].to_pylist() for name in SIZE))
    caption = keys(recipes.text, content, captions)
    columns = {
        Column.WINDOW_KEY: window,
        Column.CAPTION_KEY: caption,
        Column.ROW_ID: keys("row", window, caption),
    }
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return _append_columns(rows, arrays)


def _refuse_duplicates(rows: pa.Table) -> pa.Table:
    """Of files with the same content, the first by name counts."""
    good = pc.equal(rows[Column.OUTCOME], OK)
    firsts = _smallest(rows.filter(good), Column.CLIP_DIGEST, Column.CLIP_URI)
    digests, names = (column.combine_chunks() for column in firsts.columns)
    first = names.take(pc.index_in(rows[Column.CLIP_DIGEST], value_set=digests))
    again = pc.and_(good, pc.fill_null(pc.not_equal(rows[Column.CLIP_URI], first), False))
    error = pc.binary_join_element_wise("expected each clip once, got the content of", first, " ")
    return _refuse(rows, again, Reason.DUPLICATE, error)


def _refuse_long_captions(rows: pa.Table, max_chars: int) -> pa.Table:
    chars = pc.utf8_length(rows[Column.CAPTION_RAW])
    long = pc.and_(pc.equal(rows[Column.OUTCOME], OK), pc.greater(chars, max_chars))
    expected = f"expected at most {max_chars} characters of caption, got"
    error = pc.binary_join_element_wise(expected, pc.cast(chars, pa.string()), " ")
    return _refuse(rows, long, Reason.CAPTION_TOO_LONG, error)


def _refuse(rows: pa.Table, which: Any, reason: Reason, error: Any) -> pa.Table:
    outcome = dict(zip(OUTCOME_COLUMNS, (FILTERED, reason, error), strict=True))
    return _replace_values(rows, which, outcome)


def _take_bad_outcomes(rows: pa.Table, entries: pa.Table) -> pa.Table:
    """Rows that are good so far, with the outcome in their entry of a log if that is not."""
    good = pc.equal(rows[Column.OUTCOME], OK)
    bad = pc.and_(good, pc.fill_null(pc.not_equal(entries[Column.OUTCOME], OK), False))
    return _replace_values(rows, bad, {name: entries[name] for name in OUTCOME_COLUMNS})


def _append_columns(rows: pa.Table, columns: dict[str, Any]) -> pa.Table:
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows


def _replace_values(rows: pa.Table, which: Any, values: dict[str, Any]) -> pa.Table:
    for name, value in values.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, pc.if_else(which, value, rows[name]))
    return rows


def _with_shards(log: pa.Table, shards: frozenset[str]) -> pa.Table:
    """The log without entries whose shard is gone."""
    there = pc.is_in(log[Column.SHARD], value_set=pa.array(sorted(shards), pa.string()))
    return log.filter(pc.or_(there, pc.not_equal(log[Column.OUTCOME], OK)))


def _entries(row_keys: Any, log: pa.Table) -> pa.Table:
    """The entry for each of the keys, nulls where there is none."""
    places = pc.index_in(row_keys, value_set=log[Column.KEY].combine_chunks())
    return log.combine_chunks().take(places)


def _is_pending(entries: pa.Table, redrive: bool) -> Any:
    """Whether there is no entry, or one that a redrive tries again."""
    absent = pc.is_null(entries[Column.OUTCOME])
    if not redrive:
        return absent
    return pc.or_(absent, pc.fill_null(pc.equal(entries[Column.OUTCOME], QUARANTINED), False))


def _is_first(values: Any, among: Any) -> Any:
    """Whether a row is the first with its value, of those that are `among`."""
    numbers = pa.array(range(len(values)), pa.int64())
    table = pa.table({"value": values, "number": numbers}).filter(among)
    _, firsts = _smallest(table, "value", "number").columns
    return pc.is_in(numbers, value_set=firsts.combine_chunks())


def _smallest(table: pa.Table, by: str, column: str) -> pa.Table:
    """The values of `by`, and the smallest of `column` for each."""
    return table.group_by(by).aggregate([(column, "min")]).select([by, f"{column}_min"])
