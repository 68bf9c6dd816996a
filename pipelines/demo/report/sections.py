"""The sections of a report as HTML, from the values of report.json and from pictures."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Values = dict[str, Any]

SOURCES = {
    "real": ("Data", "rendered, through H.264 and AAC"),
    "teacher": ("Teacher", "bidirectional, many guided steps"),
    "stage_1": ("Stage I", "bidirectional, few steps"),
    "stage_2": ("Stage II", "causal, regressed on trajectories, streamed"),
    "stage_3": ("Stage III", "causal, self-forced, streamed"),
    "shipped": ("Shipped", "the student that the preset names, streamed"),
}
STAGES = {name: title for name, (title, _) in SOURCES.items()} | {"trajectories": "Trajectories"}
DIGEST_CHARACTERS = 19
COMMIT_CHARACTERS = 10
CLIP = "clip"
SHOWN_CLIPS = 6


@dataclass(frozen=True)
class Pictures:
    """PNG files of a report, and the stream as an MP4 file where it is small enough."""

    clips: dict[str, bytes]
    losses: dict[str, bytes]
    timeline: bytes
    stream: bytes | None


def body(values: Values, pictures: Pictures) -> str:
    """All sections."""
    return "\n".join(
        (
            _opening(values),
            _stream(values, pictures),
            _side_by_side(pictures),
            _scores(values),
            _training(values, pictures),
            _data(values),
            _lineage(values),
            _machine(values),
        )
    )


def _opening(values: Values) -> str:
    stream = values["stream"]
    tiles = (
        ("First chunk", f"{stream['first_chunk_s'] * 1000:.0f}", "ms"),
        ("Throughput", f"{stream['fps']:.0f}", "frames/s"),
        ("Block p50", f"{stream['block_p50_s'] * 1000:.0f}", "ms"),
        ("Block p99", f"{stream['block_p99_s'] * 1000:.0f}", "ms"),
        ("Picture to sound", f"{stream['av_offset_ms']:.0f}", "ms apart"),
        ("Whole demo", *duration(values["seconds"])),
    )
    boxes = "".join(
        f"<div><dt>{name}</dt><dd>{number}<span>{unit}</span></dd></div>"
        for name, number, unit in tiles
    )
    return (
        "<h1>OmniForcing on Ray: demo</h1>"
        f'<p class="lead">Preset <code>{escape(values["preset"])}</code>: clips preprocessed with'
        " Ray Data, a short pass of every training stage with Ray Train, and a second of"
        " synchronised picture and sound at a time from Ray Serve.</p>"
        f'<dl class="tiles">{boxes}</dl>'
    )


def duration(seconds: float) -> tuple[str, str]:
    """A time as number and unit."""
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}:{rest:02d}", "min") if minutes else (str(rest), "s")


def _stream(values: Values, pictures: Pictures) -> str:
    stream = values["stream"]
    if pictures.stream is None:
        player = f"<p>The stream is in <code>{escape(stream['file'])}</code>.</p>"
    else:
        source = f"data:video/mp4;base64,{base64.b64encode(pictures.stream).decode()}"
        player = f'<video controls loop preload="auto" src="{source}"></video>'
    rows = [
        (
            f"block {block['index']}",
            f"{block['media_s']:.2f}",
            f"{block['block_s'] * 1000:.0f}",
            f"{block['computed_at_s']:.3f}",
            f"{block['sent_at_s']:.3f}",
        )
        for block in stream["blocks"]
    ]
    heads = ("", "begins at, s", "took, ms", "computed at, s", "sent at, s")
    return (
        "<h2>The stream</h2>"
        f'<div class="stream">{player}<div><blockquote>“{escape(values["prompt"])}”</blockquote>'
        f"<p>{stream['frames']} frames over HTTP. Times count from the request. A block is sent"
        " while the next one is computed; the player needs it when its mark is reached.</p>"
        f'<p class="digest">{escape(stream["model"])}</p></div></div>'
        f"<figure>{image(pictures.timeline, 'Blocks: computed, sent, needed')}</figure>"
        f"{table(heads, rows)}"
    )


def _side_by_side(pictures: Pictures) -> str:
    parts = []
    for name, picture in pictures.clips.items():
        title, description = SOURCES[name]
        shown = image(picture, f"{title}: frames, waveform and mel bands")
        parts.append(f"<h3>{title}<small>{description}</small></h3><figure>{shown}</figure>")
    return (
        "<h2>The same prompt, every stage</h2>"
        "<p>The first seconds of each, over one time axis. Lines on"
        " the wave are measured flashes, lines on the mel bands are measured beeps: in a clip in"
        " sync they stand one above the other.</p>"
        f"{''.join(parts)}"
    )


def _scores(values: Values) -> str:
    rows = []
    for name, scores in values["scores"].items():
        shares = [scores[f"{what}_accuracy"] for what in ("rate", "colour", "pitch")]
        cells = [SOURCES[name][0], f"{scores['av_offset_ms_median']:.0f}"]
        rows.append((*cells, *(_share(share) for share in shares), str(scores["clips"])))
    heads = ("", "offset, ms", "rate", "colour", "pitch", "clips")
    marked = [name == "real" for name in values["scores"]]
    return (
        "<h2>Scores</h2>"
        "<p>Median distance between a flash and its beep, and the share of clips that show the"
        " rate, colour and pitch their prompt asks for. Every source answers the same prompts;"
        " what cannot be measured counts as wrong.</p>"
        f"{table(heads, rows, marked)}"
        f'<p class="note">Streamed above: {escape(values["streamed"])}.</p>'
    )


def _share(share: float) -> str:
    width = f"{100 * share:.0f}%"
    return f'<span class="bar"><i style="width:{width}"></i></span><b class="share">{width}</b>'


def _training(values: Values, pictures: Pictures) -> str:
    rows = [
        (
            STAGES[stage["name"]],
            str(stage["steps"]),
            "reused" if stage["reused"] else f"{stage['seconds']:.0f}",
            f'<span class="digest">{escape(stage["digest"][:DIGEST_CHARACTERS])}</span>',
        )
        for stage in values["stages"]
    ]
    figures = "".join(
        f"<figure><h3>{STAGES[name]}</h3>{image(picture, f'Losses of {name}')}</figure>"
        for name, picture in pictures.losses.items()
    )
    return (
        "<h2>Training</h2>"
        "<p>A short pass: all but stage III start from the models that ship with the package, so"
        " that the whole pipeline runs in minutes and keeps its quality. Full training is"
        " <code>omniforcing distill</code>.</p>"
        f"{table(('stage', 'steps', 'seconds', 'model'), rows)}"
        f'<div class="columns">{figures}</div>'
    )


def _data(values: Values) -> str:
    dataset = values["dataset"]
    rows = [("ok", str(dataset["ok"]))]
    for outcome in ("filtered", "quarantined"):
        rows += [
            (f"{outcome}: {escape(str(reason))}", str(count))
            for reason, count in sorted(dataset[outcome].items())
        ]
    return (
        "<h2>Data</h2>"
        f"<p>{dataset['rows']} clips went in. Every one is accounted for.</p>"
        f"{table(('outcome', 'clips'), rows, narrow=True)}"
        f'<p class="digest">{escape(dataset["dataset"])} {escape(dataset["digest"])}</p>'
    )


def _lineage(values: Values) -> str:
    nodes = values["lineage"]
    names = {node["digest"]: node["name"] for node in nodes}
    clips = [node for node in nodes if node["kind"] == CLIP]
    items = [_lineage_item(node, names) for node in nodes if node["kind"] != CLIP]
    if clips:
        first = ", ".join(escape(node["name"]) for node in clips[:SHOWN_CLIPS])
        more = f" and {len(clips) - SHOWN_CLIPS} more" if len(clips) > SHOWN_CLIPS else ""
        items.append(
            f'<li class="data"><span class="kind">clips</span>{len(clips)}'
            f'<br><span class="note">{first}{more}; captions and digests of each are in'
            " report.json</span></li>"
        )
    return (
        "<h2>Lineage</h2>"
        "<p>What the trained student was made of: results before their inputs.</p>"
        f'<ul class="chain">{"".join(items)}</ul>'
    )


def _lineage_item(node: Values, names: dict[str, str]) -> str:
    css = "model" if node["kind"] == "model" else "data"
    inputs = [names.get(digest, digest[:DIGEST_CHARACTERS]) for digest in node["inputs"]]
    shown = ", ".join(escape(name) for name in inputs[:SHOWN_CLIPS])
    more = f" and {len(inputs) - SHOWN_CLIPS} more" if len(inputs) > SHOWN_CLIPS else ""
    commit = (
        f" at commit {escape(node['commit'][:COMMIT_CHARACTERS])}" if node.get("commit") else ""
    )
    made_of = f'<br><span class="note">made of {shown}{more}{commit}</span>' if inputs else ""
    return (
        f'<li class="{css}"><span class="kind">{escape(node["kind"])}</span>{escape(node["name"])}'
        f'<br><span class="digest">{escape(node["digest"])}</span>{made_of}</li>'
    )


def _machine(values: Values) -> str:
    facts = {**values["machine"], **values["versions"]}
    rows = [(escape(name), escape(found)) for name, found in facts.items()]
    phases = [(escape(name), f"{seconds:.1f}") for name, seconds in values["phases_s"].items()]
    return (
        "<h2>Machine and versions</h2>"
        f'<div class="columns"><div>{table(("", ""), rows)}</div>'
        f"<div>{table(('phase', 'seconds'), phases)}</div></div>"
    )


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    marked: Sequence[bool] = (),
    *,
    narrow: bool = False,
) -> str:
    """A table of cells that are HTML already; `marked` rows are references."""
    head = "".join(f"<th>{title}</th>" for title in heads)
    lines = []
    for number, row in enumerate(rows):
        css = ' class="reference"' if number < len(marked) and marked[number] else ""
        lines.append(f"<tr{css}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    kind = ' class="narrow"' if narrow else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def image(png: bytes, text: str) -> str:
    """A picture inside the page; `text` is for those who do not see it."""
    return (
        f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
