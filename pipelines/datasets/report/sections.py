"""What the sections of a dataset's page show, from the values of report.json and from clips."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from infra.dataset.columns import Column
from infra.dataset.outcome_table import OutcomeCounts
from infra.dataset.reasons import WITHOUT_A_CLIP, explained_counts
from pipelines.datasets.report.gallery import Gallery, KeptRow, RefusedRow
from pipelines.datasets.report.shown_clips import ShownClip
from pipelines.preprocessing.gate_lines import GateLine, gate_lines
from pipelines.reports.parts import COMMIT_CHARACTERS, Figure, Tile, duration, percent

Values = dict[str, Any]

MOST_CHARACTERS = 800
HOUR_S = 3600
LAG, LOUDNESS = Column.AV_LAG_MS, Column.LOUDNESS_LUFS
HISTOGRAMS = {LOUDNESS: ("Loudness", "LUFS"), LAG: ("Sound after picture, estimated", "ms")}
# Said where they stand beside clips.
KNOWN_TO_CODECS = {
    "tiny": "The codecs of this preset are toys: they know flashing discs with beeps, as the demo"
    " renders them, and nothing else. Whatever else a clip shows comes out as a grey disc. For"
    " clips of your own take a preset with real codecs."
}
OUTCOME_WORDS = {
    "ok": "in the dataset",
    "filtered": "a gate refused them, and would again",
    "quarantined": "could not be worked on; tried again with --redrive",
}


class OutcomeLine(NamedTuple):
    """How many rows had one outcome for one reason, and in `words` what that means; `outcome` is
    empty for all of them."""

    outcome: str
    label: str
    rows: str
    share: str
    words: str = ""


class ClipFigure(NamedTuple):
    """A clip to play, or a note instead of it."""

    title: str
    mp4: bytes | None
    note: str


class Card(NamedTuple):
    """A row: its clips, its texts by term, and where its clip is."""

    clips: list[ClipFigure]
    words: list[tuple[str, str]]
    place: str


class RefusedGroup(NamedTuple):
    """Rows that were left out for one reason."""

    outcome: str
    reason: str
    cards: list[Card]


class StageTime(NamedTuple):
    """Work of one stage."""

    name: str
    seconds: str
    share: str
    ms_per_row: str


class DatasetPage(NamedTuple):
    """Everything on the page, section by section."""

    title: str
    preset: str
    source: str
    digest: str
    dataset: str
    commit: str
    tiles: list[Tile]
    outcomes: list[OutcomeLine]
    all_rows: OutcomeLine
    outcome_words: Mapping[str, str]
    gates: list[GateLine]
    codec_note: str
    kept: list[Card]
    refused: list[RefusedGroup]
    scores: list[Figure]
    clock: str
    stages: list[StageTime]
    settings: list[tuple[str, str]]


def dataset_page(values: Values, histograms: Mapping[str, bytes], gallery: Gallery) -> DatasetPage:
    """The page of the values of report.json.

    Args:
        values: of report.json.
        histograms: a PNG file by column (`HISTOGRAMS`), of those that have one.
        gallery: the rows to be shown.
    """
    counts, figures = values["counts"], values["figures"]
    return DatasetPage(
        title=f"Dataset {values['name']}",
        preset=values["preset"],
        source=values["source"],
        digest=values["digest"],
        dataset=values["dataset"],
        commit=(values["commit"] or "unknown")[:COMMIT_CHARACTERS],
        tiles=_tiles(values),
        outcomes=_outcome_lines(counts),
        all_rows=_outcome_line("", "all rows", counts["rows"], counts["rows"]),
        outcome_words=OUTCOME_WORDS,
        gates=list(
            gate_lines(values["config"]["data"]["gates"], OutcomeCounts.model_validate(counts))
        ),
        codec_note=KNOWN_TO_CODECS.get(values["config"]["codec"]["kind"], ""),
        kept=[_kept_card(row) for row in gallery.kept],
        refused=[
            RefusedGroup(outcome, reason, [_refused_card(row) for row in rows])
            for (outcome, reason), rows in gallery.refused.items()
        ],
        scores=[_score(column, values["scores"][column], histograms) for column in HISTOGRAMS],
        clock=f"{figures['rows_worked']:,} rows took {figures['seconds']:,.1f} s by the clock",
        stages=_stage_times(figures["stage_seconds"], figures["rows_worked"]),
        settings=[
            (title, json.dumps(values[name], indent=2, ensure_ascii=False))
            for title, name in (("Configuration", "config"), ("Codecs", "codecs"))
        ],
    )


def _tiles(values: Values) -> list[Tile]:
    counts, figures = values["counts"], values["figures"]
    rows_per_s = figures["rows_worked"] / figures["seconds"] if figures["seconds"] else 0.0
    share = 100 * counts["ok"] / counts["rows"] if counts["rows"] else 0.0
    return [
        Tile("Rows", f"{counts['rows']:,}", ""),
        Tile("Kept", f"{share:.0f}", "%"),
        Tile("Length kept", *_hours(values["kept_seconds"])),
        Tile("This run", *duration(figures["seconds"])),
        Tile("Worked on", f"{figures['rows_worked']:,}", "rows"),
        Tile("Throughput", f"{rows_per_s:.3g}", "rows/s"),
    ]


def _hours(seconds: float) -> tuple[str, str]:
    return (f"{seconds / HOUR_S:,.1f}", "h") if seconds >= HOUR_S else duration(seconds)


def _outcome_lines(counts: Values) -> list[OutcomeLine]:
    total = counts["rows"]
    refused = explained_counts(OutcomeCounts.model_validate(counts))
    return [
        _outcome_line("ok", "ok", counts["ok"], total),
        *(
            _outcome_line(
                each.outcome,
                f"{each.outcome}: {each.reason}",
                each.rows,
                total,
                f"{each.meaning} {each.advice}".strip(),
            )
            for each in refused
        ),
    ]


def _outcome_line(outcome: str, label: str, count: int, total: int, words: str = "") -> OutcomeLine:
    return OutcomeLine(outcome, label, f"{count:,}", percent(count, total), words)


def _kept_card(row: KeptRow) -> Card:
    values = row.values
    loudness = _loudness(values[LOUDNESS])
    words = [
        ("caption before", values[Column.CAPTION_RAW]),
        ("after" if values[Column.REWRITTEN] else "after, unchanged", values["caption"]),
        ("scores", f"{loudness}, {_lag(values[LAG])}"),
    ]
    clips = [(row.source, "source window"), (row.decoded, "decoded from its latents")]
    return _card(values, clips, words)


def _refused_card(row: RefusedRow) -> Card:
    words = [("why", row.values["error"]), ("caption", row.values[Column.CAPTION_RAW])]
    title = "" if row.values[Column.REASON] in WITHOUT_A_CLIP else "source window"
    return _card(row.values, [(row.source, title)], words)


def _card(
    values: Values, clips: Iterable[tuple[ShownClip, str]], words: Iterable[tuple[str, str]]
) -> Card:
    is_clip = values.get(Column.REASON) not in WITHOUT_A_CLIP
    begin = f" from {values[Column.START_S]:g} s" if is_clip else ""
    return Card(
        clips=[ClipFigure(title, clip.mp4, _shorten(clip.note)) for clip, title in clips],
        words=[(term, _shorten(text)) for term, text in words],
        place=f"{_shorten(values[Column.CLIP_URI])}{begin}",
    )


def _shorten(text: str) -> str:
    return text[: MOST_CHARACTERS - 1] + "…" if len(text) > MOST_CHARACTERS else text


def _loudness(value: float | None) -> str:
    return f"{value:.1f} LUFS" if value is not None and math.isfinite(value) else "no LUFS"


def _lag(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "lag of the sound unknown"
    side = "before" if value < 0 else "after"
    return f"sound about {abs(value):.0f} ms {side} the picture, if they belong together"


def _score(column: str, distribution: Values, histograms: Mapping[str, bytes]) -> Figure:
    title, unit = HISTOGRAMS[column]
    text = f"{title} in {unit}: rows"
    if column not in histograms:
        return Figure(title, "measured in no row", None, text)
    note = f"{distribution['rows']:,} rows, median {distribution['median']:.1f} {unit}"
    return Figure(title, note, histograms[column], text)


def _stage_times(stage_seconds: Mapping[str, float], rows: int) -> list[StageTime]:
    total = sum(stage_seconds.values())
    return [
        StageTime(
            name=name,
            seconds=f"{seconds:,.2f}",
            share=percent(seconds, total),
            ms_per_row=f"{1000 * seconds / rows:,.0f}" if rows else "—",
        )
        for name, seconds in stage_seconds.items()
    ]
