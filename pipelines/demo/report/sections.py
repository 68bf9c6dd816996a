"""What the sections of a demo's page show, from the values of report.json and from pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from infra.dataset.outcome_table import OutcomeCounts
from infra.dataset.reasons import explained_counts
from infra.stages import STAGES
from pipelines.reports.parts import COMMIT_CHARACTERS, Figure, Tile, duration, first_few, percent

Values = dict[str, Any]

SOURCES = {
    "real": ("Data", "rendered, through H.264 and AAC"),
    **{name: (stage.title, stage.about) for name, stage in STAGES.items()},
    "shipped": ("Shipped", "the student that the preset names, streamed"),
}
TITLE = "OmniForcing on Ray: demo"
DIGEST_CHARACTERS = 19
CLIP = "clip"
SHOWN_CLIPS = 6


@dataclass(frozen=True)
class Pictures:
    """PNG files of a report, and the stream as an MP4 file where it is small enough."""

    clips: dict[str, bytes]
    losses: dict[str, bytes]
    timeline: bytes
    stream: bytes | None


class StreamSection(NamedTuple):
    """The stream, in the page (`mp4`) or beside it, and the times of its blocks."""

    prompt: str
    model: str
    frames: int
    file: str
    mp4: bytes | None
    timeline: bytes
    blocks: list[tuple[str, ...]]


class ScoreRow(NamedTuple):
    """Scores of one source; the shares are of right rates, colours and pitches."""

    source: str
    is_reference: bool
    offset_ms: str
    shares: tuple[str, ...]
    clips: int


class TrainingRow(NamedTuple):
    """One trained stage."""

    title: str
    steps: int
    seconds: str
    digest: str


class OutcomeLine(NamedTuple):
    """How many rows had an outcome for a reason, and in `words` what that means."""

    label: str
    rows: int
    words: str


class DataSection(NamedTuple):
    """The dataset, and how many rows had which outcome."""

    rows: int
    outcomes: list[OutcomeLine]
    dataset: str
    digest: str


class LineageItem(NamedTuple):
    """A result, or all clips together, and what it was made of."""

    kind: str
    name: str
    digest: str
    note: str


class DemoPage(NamedTuple):
    """Everything on the page, section by section."""

    title: str
    preset: str
    tiles: list[Tile]
    stream: StreamSection
    clips: list[Figure]
    scores: list[ScoreRow]
    streamed: str
    training: list[TrainingRow]
    losses: list[Figure]
    data: DataSection
    lineage: list[LineageItem]
    facts: list[tuple[str, str]]
    phases: list[tuple[str, str]]


def demo_page(values: Values, pictures: Pictures) -> DemoPage:
    """The page of the values of report.json."""
    return DemoPage(
        title=TITLE,
        preset=values["preset"],
        tiles=_tiles(values),
        stream=_stream(values, pictures),
        clips=[_clip(name, png) for name, png in pictures.clips.items()],
        scores=[_score_row(name, scores) for name, scores in values["scores"].items()],
        streamed=values["streamed"],
        training=[_training_row(stage) for stage in values["stages"]],
        losses=[
            Figure(STAGES[name].title, "", png, f"Losses of {name}")
            for name, png in pictures.losses.items()
        ],
        data=_data(values["dataset"]),
        lineage=_lineage(values["lineage"]),
        facts=list({**values["machine"], **values["versions"]}.items()),
        phases=[(name, f"{seconds:.1f}") for name, seconds in values["phases_s"].items()],
    )


def _tiles(values: Values) -> list[Tile]:
    stream = values["stream"]
    return [
        Tile("First chunk", f"{stream['first_chunk_s'] * 1000:.0f}", "ms"),
        Tile("Throughput", f"{stream['fps']:.0f}", "frames/s"),
        Tile("Block p50", f"{stream['block_p50_s'] * 1000:.0f}", "ms"),
        Tile("Block p99", f"{stream['block_p99_s'] * 1000:.0f}", "ms"),
        Tile("Picture to sound", f"{stream['av_offset_ms']:.0f}", "ms apart"),
        Tile("Whole demo", *duration(values["seconds"])),
    ]


def _stream(values: Values, pictures: Pictures) -> StreamSection:
    stream = values["stream"]
    blocks: list[tuple[str, ...]] = [
        (
            f"block {block['index']}",
            f"{block['media_s']:.2f}",
            f"{block['block_s'] * 1000:.0f}",
            f"{block['computed_at_s']:.3f}",
            f"{block['sent_at_s']:.3f}",
        )
        for block in stream["blocks"]
    ]
    return StreamSection(
        prompt=values["prompt"],
        model=stream["model"],
        frames=stream["frames"],
        file=stream["file"],
        mp4=pictures.stream,
        timeline=pictures.timeline,
        blocks=blocks,
    )


def _clip(name: str, png: bytes) -> Figure:
    title, description = SOURCES[name]
    return Figure(title, description, png, f"{title}: frames, waveform and mel bands")


def _score_row(name: str, scores: Values) -> ScoreRow:
    return ScoreRow(
        source=SOURCES[name][0],
        is_reference=name == "real",
        offset_ms=f"{scores['av_offset_ms_median']:.0f}",
        shares=tuple(
            percent(scores[f"{trait}_accuracy"], 1, digits=0)
            for trait in ("rate", "colour", "pitch")
        ),
        clips=scores["clips"],
    )


def _training_row(stage: Values) -> TrainingRow:
    return TrainingRow(
        title=STAGES[stage["name"]].title,
        steps=stage["steps"],
        seconds="reused" if stage["reused"] else f"{stage['seconds']:.0f}",
        digest=stage["digest"][:DIGEST_CHARACTERS],
    )


def _data(dataset: Values) -> DataSection:
    outcomes = [OutcomeLine("ok", dataset["ok"], "")]
    counts = OutcomeCounts(**{name: dataset[name] for name in OutcomeCounts.model_fields})
    for each in explained_counts(counts):
        words = f"{each.meaning} {each.advice}".strip()
        outcomes.append(OutcomeLine(f"{each.outcome}: {each.reason}", each.rows, words))
    return DataSection(dataset["rows"], outcomes, dataset["dataset"], dataset["digest"])


def _lineage(nodes: Iterable[Values]) -> list[LineageItem]:
    names = {node["digest"]: node["name"] for node in nodes}
    items = [_lineage_item(node, names) for node in nodes if node["kind"] != CLIP]
    clips = [node["name"] for node in nodes if node["kind"] == CLIP]
    if clips:
        first = first_few(clips, SHOWN_CLIPS)
        note = f"{first}; captions and digests of each are in report.json"
        items.append(LineageItem("clips", str(len(clips)), "", note))
    return items


def _lineage_item(node: Values, names: dict[str, str]) -> LineageItem:
    inputs = [names.get(digest, digest[:DIGEST_CHARACTERS]) for digest in node["inputs"]]
    commit = f" at commit {node['commit'][:COMMIT_CHARACTERS]}" if node.get("commit") else ""
    note = f"made of {first_few(inputs, SHOWN_CLIPS)}{commit}" if inputs else ""
    return LineageItem(node["kind"], node["name"], node["digest"], note)
