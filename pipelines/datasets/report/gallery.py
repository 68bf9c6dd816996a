"""Rows of a dataset to look at and listen to: kept ones beside what their latents hold, and refused
ones with what is wrong with them."""

import random
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.config import RunConfig
from infra.dataset.columns import Column
from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import FILTERED, OK, QUARANTINED
from infra.dataset.reasons import WITHOUT_A_CLIP
from infra.media.limits import one_line
from infra.storage.object_store import ObjectStore
from omniforcing_model.errors import OmniForcingError
from pipelines.datasets.report.shown_clips import LatentPlayer, ShownClip, source_clip

KEPT_ROWS = 4
REFUSED_ROWS_PER_REASON = 2
# Of all clips together. A page in HTML is a third longer, and ends below 8 MB.
CLIPS_BYTES = 5_400_000
NO_ROOM = ShownClip(None, "left out, so that this page stays small")
NO_CLIP = ShownClip(None, "no clip was opened")
WORDS = (
    Column.CLIP_URI,
    Column.START_S,
    Column.CAPTION_RAW,
    Column.CAPTION,
    Column.REWRITTEN,
    Column.AV_LAG_MS,
    Column.LOUDNESS_LUFS,
)
LATENTS = ("video", "audio")


class KeptRow(NamedTuple):
    """A row of the dataset: its values (`WORDS`), its source, and what its latents hold."""

    values: dict[str, Any]
    source: ShownClip
    decoded: ShownClip


class RefusedRow(NamedTuple):
    """A row that is not in the dataset: its line of outcomes.parquet, and its source."""

    values: dict[str, Any]
    source: ShownClip


class Gallery(NamedTuple):
    """The rows of a report, refused ones by outcome and reason."""

    kept: list[KeptRow]
    refused: dict[tuple[str, str], list[RefusedRow]]


def make_gallery(
    out: ObjectStore, clips: ObjectStore, config: RunConfig, outcomes: pa.Table, seed: int = 0
) -> Gallery:
    """Up to four kept rows and two refused ones per reason, drawn with `seed`.

    A clip that cannot be shown says so, and so does one for which there is no room: kept rows come
    first, then the first row of every reason.

    Args:
        out: a committed dataset.
        clips: where its sources are.
        config: that it was made with.
        outcomes: of all its rows (infra/dataset/outcome_table.py).
        seed: of the choice.

    Raises:
        DatasetError: the dataset cannot be read.
    """
    draw, room = random.Random(seed), _Room(CLIPS_BYTES)
    kept_rows = _draw_kept(out, clips, config, room, draw) if _has_any(outcomes, OK) else []
    refused = defaultdict(list)
    for values in _draw_refused(outcomes, draw):
        place = (values[Column.CLIP_URI], values[Column.START_S], values[Column.CLIP_BYTES])
        has_clip = values[Column.REASON] not in WITHOUT_A_CLIP
        source = source_clip(clips, *place, config.data) if has_clip else NO_CLIP
        shown = room.take(source)
        refused[values[Column.OUTCOME], values[Column.REASON]].append(RefusedRow(values, shown))
    return Gallery(kept_rows, dict(sorted(refused.items())))


class _Room:
    """Bytes that clips may still take."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, clip: ShownClip) -> ShownClip:
        size = len(clip.mp4 or b"")
        if size > self._left:
            return NO_ROOM
        self._left -= size
        return clip


def _draw_kept(
    out: ObjectStore, clips: ObjectStore, config: RunConfig, room: _Room, draw: random.Random
) -> list[KeptRow]:
    table = LatentTable.open(out.uri)
    numbers = sorted(draw.sample(range(table.rows), min(KEPT_ROWS, table.rows)))
    columns = table.read(numbers, (*WORDS, *LATENTS))
    rows = []
    for row, clip in enumerate(_decode(config, columns)):
        values = {name: _plain_value(columns[name][row]) for name in WORDS}
        source = source_clip(clips, values[Column.CLIP_URI], values[Column.START_S], 0, config.data)
        rows.append(KeptRow(values, room.take(source), room.take(clip)))
    return rows


def _decode(config: RunConfig, columns: dict[str, Any]) -> list[ShownClip]:
    count = len(columns["video"])
    try:
        player = LatentPlayer(config.codec)
        return [player.clip(*(columns[name][row] for name in LATENTS)) for row in range(count)]
    except OmniForcingError as error:
        return [ShownClip(None, f"not decoded: {one_line(error)}")] * count


def _draw_refused(outcomes: pa.Table, draw: random.Random) -> list[dict[str, Any]]:
    """The first chosen row of every reason, then the second ones."""
    chosen = []
    for outcome in (FILTERED, QUARANTINED):
        has_outcome = pc.equal(outcomes[Column.OUTCOME], outcome)
        for reason in sorted(pc.unique(outcomes[Column.REASON].filter(has_outcome)).to_pylist()):
            has_both = pc.and_(has_outcome, pc.equal(outcomes[Column.REASON], reason))
            numbers = pc.indices_nonzero(has_both)
            some = draw.sample(range(len(numbers)), min(REFUSED_ROWS_PER_REASON, len(numbers)))
            chosen += [(place, numbers[n].as_py()) for place, n in enumerate(sorted(some))]
    places = [number for _, number in sorted(chosen, key=lambda pair: pair[0])]
    rows: list[dict[str, Any]] = outcomes.take(pa.array(places, pa.int64())).to_pylist()
    return rows


def _has_any(outcomes: pa.Table, outcome: str) -> bool:
    return bool(pc.any(pc.equal(outcomes[Column.OUTCOME], outcome)).as_py())


def _plain_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
