"""Which rows there are, what is known of each, and what is still to do: joins of Arrow tables.

Runs in a task of its own, so that a listing of millions never passes through the driver. Imports
neither torch nor Ray.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from actors.clips.gates import (
    CLIP_GATES,
    FILE_GATES,
    ROW_GATES,
    SIGNAL_GATES,
    Limits,
    limits_of,
    refused,
    sound_missing_s,
)
from actors.clips.size_buckets import nearest_sizes
from infra.config import DataConfig, FrameSize
from infra.dataset.columns import (
    CLIP_FILE,
    LISTED_CLIP,
    OUTCOME_COLUMNS,
    SIGNAL_MEASURES,
    SIZE,
    Column,
    schema,
)
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED
from infra.dataset.reasons import Reason
from pipelines.preprocessing.keys import RecipeDigests, keys

# Of the clips that pipelines/preprocessing/listing/clips.py lists.
LISTING_SCHEMA = schema(LISTED_CLIP)
# What of a clip its rows have to know.
_OF_CLIP = (Column.SOUND_BEGINS_S, Column.SOUND_ENDS_S)


class Logs(NamedTuple):
    """What earlier work has left: the three commit logs, and the names of the shards there are."""

    clips: pa.Table
    windows: pa.Table
    captions: pa.Table
    shards: frozenset[str]


class RowRules(NamedTuple):
    """What is decided of rows from what is known of them: it is in no key, and costs no work.

    `sizes`: that rows may have; `seconds`: of a window; `max_windows`: of a clip.
    """

    limits: Limits
    sizes: tuple[FrameSize, ...]
    seconds: int
    max_windows: int


def rules_of(data: DataConfig) -> RowRules:
    """The rules of a configuration."""
    return RowRules(limits_of(data), data.sizes, data.seconds, data.split.max_windows)


def clips_to_survey(
    listing: pa.Table,
    logs: Logs,
    recipes: RecipeDigests,
    rules: RowRules,
    redrive: bool = False,
) -> pa.Table:
    """Listed files that nobody has looked into far enough yet, with their `key`."""
    keyed = _add_clip_keys(listing, recipes)
    entries = _entries(keyed[Column.KEY], logs.clips)
    openable = pc.equal(keyed[Column.PROBLEM], "")
    reasons, _ = _refused_clips(keyed, entries, rules)
    unsettled = pc.and_(openable, pc.is_null(reasons))
    ended = pc.equal(entries[Column.OUTCOME], FILTERED)  # by a gate that has let it pass since
    if redrive:
        ended = pc.or_(ended, pc.equal(entries[Column.OUTCOME], QUARANTINED))
    pending = pc.or_(pc.is_null(entries[Column.OUTCOME]), pc.fill_null(ended, False))
    return keyed.filter(pc.and_(unsettled, pending))


def all_rows(
    listing: pa.Table,
    logs: Logs,
    recipes: RecipeDigests,
    rules: RowRules,
    redrive: bool = False,
) -> pa.Table:
    """Every row with its outcome so far; `needs_latents` and `needs_text` where there is work to
    do.

    Args:
        listing: of pipelines/preprocessing/listing/clips.py, all surveyed.
        logs: what is known.
        recipes: of the configuration.
        rules: of the configuration.
        redrive: try quarantined windows and captions again.
    """
    rows = _split_into_windows(_join_surveys(listing, logs, recipes, rules), recipes, rules)
    rows = _refuse_duplicates(rows)
    rows = _refuse_by_gates(rows, rules)
    open_rows = pc.equal(rows[Column.OUTCOME], OK)
    windows = _entries(rows[Column.WINDOW_KEY], _with_shards(logs.windows, logs.shards))
    captions = _entries(rows[Column.CAPTION_KEY], _with_shards(logs.captions, logs.shards))
    reasons, sentences = refused(windows, SIGNAL_GATES, rules.limits)
    heard = pc.is_null(reasons)
    rows = _refuse(rows, pc.and_(open_rows, pc.invert(heard)), reasons, sentences)
    windows_wait = pc.and_(heard, _is_pending(windows, redrive))
    captions_wait = _is_pending(captions, redrive)
    rows = _take_quarantine(rows, windows, pc.invert(windows_wait))
    needs_latents = pc.and_(open_rows, windows_wait)
    needs_text = pc.and_(pc.equal(rows[Column.OUTCOME], OK), captions_wait)
    rows = _take_quarantine(rows, captions, pc.invert(captions_wait))
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
        # What a run with other gates has measured of rows that are not decoded now does not count.
        **{name: pc.if_else(open_rows, windows[name], None) for name in SIGNAL_MEASURES},
    }
    rows = _append_columns(rows, columns)
    attempts = pc.max_element_wise(rows[Column.WINDOW_ATTEMPTS], rows[Column.CAPTION_ATTEMPTS], 1)
    return rows.append_column(Column.ATTEMPTS, attempts)


def _add_clip_keys(listing: pa.Table, recipes: RecipeDigests) -> pa.Table:
    clip_keys = keys(recipes.survey, *(listing[name].to_pylist() for name in CLIP_FILE))
    return listing.append_column(Column.KEY, pa.array(clip_keys, pa.string()))


def _refused_clips(clips: pa.Table, surveys: pa.Table, rules: RowRules) -> tuple[Any, Any]:
    """Reason and sentence of each listed file that a gate on clips refuses, else nulls."""
    known = surveys.append_column(Column.CLIP_BYTES, clips[Column.CLIP_BYTES])
    # Windows are counted once they were looked for.
    whole = pc.equal(surveys[Column.OUTCOME], OK)
    none_fits = pc.equal(surveys[Column.REASON], Reason.NO_WHOLE_SHOT.value)
    counted = pc.or_(whole, none_fits)
    windows = pc.if_else(counted, pc.list_value_length(surveys[Column.STARTS_S]), None)
    known = known.append_column(Column.WINDOW_COUNT, windows)
    return refused(known, CLIP_GATES, rules.limits)


def _join_surveys(
    listing: pa.Table, logs: Logs, recipes: RecipeDigests, rules: RowRules
) -> pa.Table:
    """The listing with what is known of each clip; a problem of the listing is its outcome."""
    clips = _add_clip_keys(listing, recipes)
    surveys = _entries(clips[Column.KEY], logs.clips)
    reasons, sentences = _refused_clips(clips, surveys, rules)
    openable = pc.equal(clips[Column.PROBLEM], "")
    passes = pc.is_null(reasons)
    outcome = pc.if_else(passes, surveys[Column.OUTCOME], FILTERED)
    good = pc.fill_null(pc.and_(openable, pc.equal(outcome, OK)), False)
    height, width = nearest_sizes(surveys[Column.ASPECT].to_numpy(), rules.sizes)
    # What an earlier run read of a file that is not opened now does not count.
    unopened, _ = refused(clips, FILE_GATES, rules.limits)
    digest = pc.if_else(pc.is_null(unopened), surveys[Column.CLIP_DIGEST], "")
    columns = {
        Column.OUTCOME: pc.if_else(openable, outcome, QUARANTINED),
        Column.REASON: pc.if_else(
            openable, pc.coalesce(reasons, surveys[Column.REASON]), clips[Column.PROBLEM]
        ),
        Column.ERROR: pc.if_else(
            openable, pc.coalesce(sentences, surveys[Column.ERROR]), clips[Column.ERROR]
        ),
        Column.CLIP_DIGEST: pc.coalesce(digest, pa.scalar("")),
        Column.STARTS_S: surveys[Column.STARTS_S],
        Column.HEIGHT: pc.if_else(good, height, 0),
        Column.WIDTH: pc.if_else(good, width, 0),
        **{name: surveys[name] for name in _OF_CLIP},
    }
    clips = clips.drop_columns([Column.PROBLEM, Column.ERROR, Column.KEY])
    return _append_columns(clips, columns)


def _split_into_windows(clips: pa.Table, recipes: RecipeDigests, rules: RowRules) -> pa.Table:
    """A row per window; a clip that has none is a row too, which starts at 0."""
    clips = clips.combine_chunks()
    good = pc.equal(clips[Column.OUTCOME], OK)
    whole = clips.filter(good).combine_chunks()
    starts = whole[Column.STARTS_S].combine_chunks()
    starts = pc.list_slice(starts, 0, rules.max_windows)
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


def _refuse_by_gates(rows: pa.Table, rules: RowRules) -> pa.Table:
    """Rows that need not be decoded to be refused."""
    start_s, sound_start_s, sound_end_s = (
        rows[name].to_numpy()
        for name in (Column.START_S, Column.SOUND_BEGINS_S, Column.SOUND_ENDS_S)
    )
    missing_s = sound_missing_s(start_s, rules.seconds, sound_start_s, sound_end_s)
    known = pa.table(
        {
            Column.CAPTION_CHARS: pc.utf8_length(rows[Column.CAPTION_RAW]),
            Column.SOUND_MISSING_S: pa.array(missing_s, pa.float64()),
        }
    )
    reasons, sentences = refused(known, ROW_GATES, rules.limits)
    which = pc.and_(pc.equal(rows[Column.OUTCOME], OK), pc.is_valid(reasons))
    return _refuse(rows, which, reasons, sentences).drop_columns(list(_OF_CLIP))


def _refuse(rows: pa.Table, which: Any, reason: Any, error: Any) -> pa.Table:
    outcome = dict(zip(OUTCOME_COLUMNS, (FILTERED, reason, error), strict=True))
    return _replace_values(rows, which, outcome)


def _take_quarantine(rows: pa.Table, entries: pa.Table, settled: Any) -> pa.Table:
    """Rows that are good so far and `settled`, with what their entry of a log says if that is bad.

    That a gate refused one once does not count: it is decided anew.
    """
    bad = pc.fill_null(pc.equal(entries[Column.OUTCOME], QUARANTINED), False)
    bad = pc.and_(pc.and_(bad, settled), pc.equal(rows[Column.OUTCOME], OK))
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
    """The log without the names of shards that are gone."""
    there = pc.is_in(log[Column.SHARD], value_set=pa.array(sorted(shards), pa.string()))
    return _replace_values(log, pc.invert(there), {Column.SHARD: ""})


def _entries(row_keys: Any, log: pa.Table) -> pa.Table:
    """The entry for each of the keys, nulls where there is none."""
    places = pc.index_in(row_keys, value_set=log[Column.KEY].combine_chunks())
    return log.combine_chunks().take(places)


def _is_pending(entries: pa.Table, redrive: bool) -> Any:
    """Whether there are no tensors yet, and nothing that a run without redrive must not try."""
    pending = pc.fill_null(pc.equal(entries[Column.SHARD], ""), True)
    if redrive:
        return pending
    return pc.and_(pending, pc.fill_null(pc.not_equal(entries[Column.OUTCOME], QUARANTINED), True))


def _is_first(values: Any, among: Any) -> Any:
    """Whether a row is the first with its value, of those that are `among`."""
    numbers = pa.array(range(len(values)), pa.int64())
    table = pa.table({"value": values, "number": numbers}).filter(among)
    _, firsts = _smallest(table, "value", "number").columns
    return pc.is_in(numbers, value_set=firsts.combine_chunks())


def _smallest(table: pa.Table, by: str, column: str) -> pa.Table:
    """The values of `by`, and the smallest of `column` for each."""
    return table.group_by(by).aggregate([(column, "min")]).select([by, f"{column}_min"])
