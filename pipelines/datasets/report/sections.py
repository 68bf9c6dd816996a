"""The sections of a dataset's report as HTML, from the values of report.json and from clips.

Captions, names and errors are of strangers: every text is escaped where it enters the page.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from pipelines.datasets.report.gallery import Gallery, KeptRow, RefusedRow
from pipelines.datasets.report.shown_clips import ShownClip
from pipelines.demo.report.sections import COMMIT_CHARACTERS, duration, image, table

Values = dict[str, Any]

MOST_CHARACTERS = 800
HOUR_S = 3600
LAG, LOUDNESS = "av_lag_ms", "loudness_lufs"
HISTOGRAMS = {LOUDNESS: ("Loudness", "LUFS"), LAG: ("Sound after picture", "ms")}
OUTCOME_WORDS = {
    "ok": "in the dataset",
    "filtered": "a gate refused them, and would again",
    "quarantined": "could not be worked on; tried again with --redrive",
}


def body(values: Values, histograms: Mapping[str, bytes], gallery: Gallery) -> str:
    """All sections.

    Args:
        values: of report.json.
        histograms: a PNG file by column (`HISTOGRAMS`), of those that have one.
        gallery: the rows to be shown.
    """
    return "\n".join(
        (
            _opening(values),
            _outcomes(values["counts"]),
            _kept(gallery.kept),
            _refused(gallery.refused),
            _scores(values["scores"], histograms),
            _timing(values),
            _settings(values),
        )
    )


def _opening(values: Values) -> str:
    counts, took = values["counts"], values["figures"]
    rows_per_s = took["rows_worked"] / took["seconds"] if took["seconds"] else 0.0
    share = 100 * counts["ok"] / counts["rows"] if counts["rows"] else 0.0
    tiles = (
        ("Rows", f"{counts['rows']:,}", ""),
        ("Kept", f"{share:.0f}", "%"),
        ("Length kept", *_hours(values["kept_seconds"])),
        ("This run", *duration(took["seconds"])),
        ("Worked on", f"{took['rows_worked']:,}", "rows"),
        ("Throughput", f"{rows_per_s:.3g}", "rows/s"),
    )
    boxes = "".join(
        f"<div><dt>{name}</dt><dd>{number}<span>{unit}</span></dd></div>"
        for name, number, unit in tiles
    )
    commit = values["commit"] or "unknown"
    return (
        f"<h1>Dataset {escape(values['name'])}</h1>"
        f'<p class="lead">Preset <code>{escape(values["preset"])}</code>, from'
        f" <code>{escape(values['source'])}</code>.</p>"
        f'<p class="digest">{escape(values["digest"])}<br>{escape(values["dataset"])}, at commit'
        f" {escape(commit[:COMMIT_CHARACTERS])}</p>"
        f'<dl class="tiles">{boxes}</dl>'
    )


def _hours(seconds: float) -> tuple[str, str]:
    return (f"{seconds / HOUR_S:,.1f}", "h") if seconds >= HOUR_S else duration(seconds)


def _outcomes(counts: Values) -> str:
    total = counts["rows"]
    ends = [("ok", "", counts["ok"])]
    for outcome in ("filtered", "quarantined"):
        ordered = sorted(counts[outcome].items(), key=lambda pair: (-pair[1], pair[0]))
        ends += [(outcome, reason, count) for reason, count in ordered]
    rows = [
        (
            f'<span class="dot {outcome}"></span>{outcome}{": " if reason else ""}{escape(reason)}',
            _bar(count, total, outcome),
            f"{count:,}",
            _percent(count, total),
        )
        for outcome, reason, count in ends
    ]
    rows.append(("all rows", "", f"{total:,}", _percent(total, total)))
    pieces = "".join(
        f'<i class="{outcome}" style="width:{_percent(count, total)}"></i>'
        for outcome, _, count in ends
        if count
    )
    words = "; ".join(f"<b>{name}</b>: {words}" for name, words in OUTCOME_WORDS.items())
    marked = [False] * (len(rows) - 1) + [True]
    return (
        "<h2>What became of every row</h2>"
        "<p>A row is a window of a clip, or a clip that has none. Each is in one line.</p>"
        f'<div class="whole">{pieces}</div>'
        f"{table(('outcome', '', 'rows', 'share'), rows, marked)}"
        f'<p class="note">{words}.</p>'
    )


def _bar(part: float, whole: float, css: str) -> str:
    return f'<span class="bar"><i class="{css}" style="width:{_percent(part, whole)}"></i></span>'


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.1f}%"


def _kept(rows: Iterable[KeptRow]) -> str:
    cards = []
    for values, source, decoded in rows:
        scores = f"{_score(values[LOUDNESS], 'LUFS')}, {_lag(values[LAG])}"
        after = "after" if values["rewritten"] else "after, unchanged"
        cards.append(
            f'<div class="card"><div class="clips">{_figure(source, "source window")}'
            f"{_figure(decoded, 'decoded from its latents')}</div>"
            '<dl class="words">'
            f"{_words('caption before', values['caption_raw'])}{_words(after, values['caption'])}"
            f"{_words('scores', scores)}{_place(values)}</dl></div>"
        )
    return (
        "<h2>Kept</h2><p>Rows of the dataset, drawn at random, with their sound. Left: what came"
        " in. Right: what a model learns from.</p>"
        f"{''.join(cards) or '<p>No row was kept.</p>'}"
    )


def _refused(by_end: Mapping[tuple[str, str], Iterable[RefusedRow]]) -> str:
    parts = []
    for (outcome, reason), rows in by_end.items():
        parts.append(f"<h3>{escape(reason)}<small>{escape(outcome)}</small></h3>")
        parts += [
            f'<div class="card single"><div class="clips">{_figure(source, "source window")}</div>'
            f'<dl class="words">{_words("error", values["error"])}'
            f"{_words('caption', values['caption_raw'])}{_place(values)}</dl></div>"
            for values, source in rows
        ]
    return (
        "<h2>Left out</h2><p>Some rows of every reason, drawn at random, as far as their clips"
        " decode.</p>"
        f"{''.join(parts) or '<p>Nothing was left out.</p>'}"
    )


def _figure(clip: ShownClip, title: str) -> str:
    if clip.mp4 is None:
        return (
            f'<figure><div class="empty">{_text(clip.note)}</div>'
            f"<figcaption>{title}</figcaption></figure>"
        )
    source = f"data:video/mp4;base64,{base64.b64encode(clip.mp4).decode()}"
    note = f": {_text(clip.note)}" if clip.note else ""
    return (
        f'<figure><video controls loop playsinline preload="auto" src="{source}"></video>'
        f"<figcaption>{title}{note}</figcaption></figure>"
    )


def _words(term: str, text: str) -> str:
    return f"<dt>{term}</dt><dd>{_text(text) or '—'}</dd>"


def _place(values: Values) -> str:
    where = f"{_text(values['clip_uri'])} from {values['start_s']:g} s"
    return f"<dt>clip</dt><dd><code>{where}</code></dd>"


def _text(text: str) -> str:
    cut = text[: MOST_CHARACTERS - 1] + "…" if len(text) > MOST_CHARACTERS else text
    return escape(cut)


def _score(value: float | None, unit: str) -> str:
    return f"{value:.1f} {unit}" if value is not None and math.isfinite(value) else f"no {unit}"


def _lag(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "sound and picture: cannot be told"
    return f"sound {abs(value):.0f} ms {'before' if value < 0 else 'after'} the picture"


def _scores(scores: Values, histograms: Mapping[str, bytes]) -> str:
    figures = []
    for column, (title, unit) in HISTOGRAMS.items():
        found = scores[column]
        if column in histograms:
            picture = image(histograms[column], f"{title} in {unit}: rows")
            said = f"{found['rows']:,} rows, median {found['median']:.1f} {unit}"
        else:
            picture, said = "", "measured in no row"
        figures.append(f"<figure><h3>{title}<small>{said}</small></h3>{picture}</figure>")
    return (
        "<h2>Scores</h2><p>Integrated loudness before it was changed, and how late the sound is"
        " where that can be told; of every row that was decoded.</p>"
        f'<div class="columns">{"".join(figures)}</div>'
    )


def _timing(values: Values) -> str:
    took, worked = values["figures"], values["figures"]["rows_worked"]
    stages = took["stage_seconds"]
    total = sum(stages.values())
    rows = [
        (
            escape(name),
            _bar(seconds, total, "work"),
            f"{seconds:,.2f}",
            _percent(seconds, total),
            f"{1000 * seconds / worked:,.0f}" if worked else "—",
        )
        for name, seconds in stages.items()
    ]
    work = table(("stage", "", "seconds", "share", "ms per row"), rows)
    said = f"{worked:,} rows took {took['seconds']:,.1f} s by the clock"
    if not rows:
        return f"<h2>Time</h2><p>{said}; no stage had work to do.</p>"
    return (
        f"<h2>Time</h2><p>{said}. Below are seconds of work, summed over the copies of each stage"
        " that worked at the same time.</p>"
        f"{work}"
    )


def _settings(values: Values) -> str:
    parts = (
        ("Configuration", values["config"]),
        ("Codecs", values["codecs"]),
    )
    folds = "".join(
        f"<details><summary>{title}</summary>"
        f"<pre>{escape(json.dumps(found, indent=2, ensure_ascii=False))}</pre></details>"
        for title, found in parts
    )
    return f"<h2>Settings</h2>{folds}<footer>All numbers of this page are in report.json.</footer>"
