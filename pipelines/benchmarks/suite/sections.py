"""What the sections of the page show, from the record of a run."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.runs.provenance import flatten
from pipelines.benchmarks.model.model_summary import ModelBench
from pipelines.benchmarks.stream.stream_bench import StreamBench
from pipelines.benchmarks.suite.charts import (
    Chart,
    block_chart,
    first_second_chart,
    roofline_chart,
    si,
)
from pipelines.benchmarks.suite.record import StepRecord, SuiteRecord, Verdict
from pipelines.reports.parts import COMMIT_CHARACTERS, Tile, duration

TITLE = "OmniForcing on Ray: engine benchmarks"
MS = 1e3
Rows = list[tuple[str, ...]]


class StreamSection(NamedTuple):
    """One stream: its blocks, its first second, and the machine's own rates beside it."""

    title: str
    what: str
    blocks: Chart
    times: Rows
    first_second: Chart
    first_rows: Rows
    roofline: Chart
    limits: Rows
    bound: str


class ModelSection(NamedTuple):
    """Our engine beside a static cache, per type."""

    title: str
    what: str
    rows: Rows


class VerdictRow(NamedTuple):
    """A figure and its bounds in words; `state` is ok, missed or open."""

    name: str
    figure: str
    bounds: str
    state: str
    note: str


class SuitePage(NamedTuple):
    """Everything on the page, section by section."""

    title: str
    lead: str
    notice: str
    tiles: list[Tile]
    verdicts: list[VerdictRow]
    streams: list[StreamSection]
    models: list[ModelSection]
    steps: Rows
    facts: Rows
    figures: Rows


def suite_page(record: SuiteRecord) -> SuitePage:
    """The page of a record."""
    streams = {
        step.title: StreamBench.model_validate(step.record.result)
        for step in record.steps.values()
        if step.record is not None and step.name.startswith("stream")
    }
    models = [
        _model_section(step)
        for step in record.steps.values()
        if step.record is not None and step.name == "model"
    ]
    return SuitePage(
        title=TITLE,
        lead=_lead(record),
        notice=_notice(record),
        tiles=_tiles(streams),
        verdicts=[_verdict_row(verdict) for verdict in record.verdicts],
        streams=[_stream_section(title, bench) for title, bench in streams.items()],
        models=models,
        steps=[_step_row(step) for step in record.steps.values()],
        facts=list({**record.torch, **record.machine, **record.versions}.items()),
        figures=_all_figures(record),
    )


def _lead(record: SuiteRecord) -> str:
    device = record.torch["gpu"] if record.on_gpu else record.machine["processor"]
    commit = record.commit[:COMMIT_CHARACTERS]
    changed = ", with changed files" if record.is_dirty else ""
    minutes = " ".join(duration(record.seconds))
    until = "" if record.is_complete else " so far: not all steps are done"
    return (
        f"Shape {record.config}, random weights, on {device}; commit {commit}{changed};"
        f" {minutes} of {record.limit_s:.0f} s{until}."
    )


def _notice(record: SuiteRecord) -> str:
    if record.on_gpu:
        return ""
    return (
        "Nothing on this page was measured on a GPU. The same steps ran on a CPU at a size for it:"
        " they show that everything runs, and this machine's own figures."
    )


def _tiles(streams: Mapping[str, StreamBench]) -> list[Tile]:
    if not streams:
        return []
    bench = next(iter(streams.values()))
    return [
        Tile("Frames/s, with codecs", f"{bench.frames_per_second_decoded:.1f}", ""),
        Tile("Frames/s, model alone", f"{bench.frames_per_second:.1f}", ""),
        Tile("Block p50", f"{bench.block_s_median * MS:,.0f}", "ms"),
        Tile("p99 / p50", f"{bench.p99_over_p50:.2f}", ""),
        Tile("First second, warm", f"{bench.first_chunk_warm_s['sum'] * MS:,.0f}", "ms"),
        Tile("Share of the limit", f"{bench.roofline.share_of_limit:.0%}", ""),
    ]


def _verdict_row(verdict: Verdict) -> VerdictRow:
    sign = "at most" if verdict.is_most else "at least"
    bounds = [f"{sign} {verdict.required:g}"] if verdict.required is not None else []
    bounds += [f"aim {verdict.aimed:g}"] if verdict.aimed is not None else []
    states = {True: "ok", False: "missed", None: "open"}
    figure = "-" if verdict.figure is None else f"{verdict.figure:,.3g} {verdict.unit}".strip()
    return VerdictRow(
        verdict.name,
        figure,
        ", ".join(bounds),
        states[verdict.is_met],
        verdict.note or {True: "met", False: "not met", None: "not measured"}[verdict.is_met],
    )


def _stream_section(title: str, bench: StreamBench) -> StreamSection:
    cold, warm = bench.first_chunk_cold_s, bench.first_chunk_warm_s
    firsts = {"cold": _without_sum(cold), "warm": _without_sum(warm)}
    line = bench.roofline
    flops = line.work.products + line.work.attention
    peak = flops / line.products_s
    point = (line.flops_per_byte, flops / bench.block_s_median)
    return StreamSection(
        title=title,
        what=(
            f"{bench.blocks} blocks of one second, {bench.steady_blocks} of them with a full"
            f" window; threads: {bench.threads}; codecs: {bench.codecs}"
        ),
        blocks=block_chart(
            {"model": bench.block_s, "codecs": bench.decode_s},
            {"p50": bench.block_s_median, "p99": bench.block_s_p99},
        ),
        times=[
            ("model", _ms(bench.block_s_median), _ms(bench.block_s_p99),
             f"{bench.p99_over_p50:.2f}", f"{bench.frames_per_second:.1f}"),
            ("codecs", _ms(bench.decode_s_median), _ms(bench.decode_s_p99),
             f"{bench.decode_s_p99 / bench.decode_s_median:.2f}", ""),
            ("both", "", "", "", f"{bench.frames_per_second_decoded:.1f}"),
            ("model, at the machine's limit", _ms(line.limit_s), "", "",
             f"{bench.frames_per_second_limit:.1f}"),
        ],
        first_second=first_second_chart(firsts),
        first_rows=[(name, _ms(cold[name]), _ms(warm.get(name))) for name in cold],
        roofline=roofline_chart({title: point}, peak, line.rates.bytes, line.ridge),
        limits=[
            ("large product", f"{si(peak)}FLOP/s", f"{line.product_share:.1%}"),
            ("memory", f"{si(line.rates.bytes)}B/s", f"{line.bandwidth_share:.1%}"),
            ("the longer of the two", f"{line.limit_s * MS:,.1f} ms a block",
             f"{line.share_of_limit:.1%}"),
        ],
        bound=_bound_in_words(bench),
    )  # fmt: skip


def _bound_in_words(bench: StreamBench) -> str:
    line = bench.roofline
    work = (
        f"A block is {si(line.work.products + line.work.attention)}FLOP and reads"
        f" {si(line.work.bytes)}B: {line.flops_per_byte:,.0f} operations a byte, where"
        f" this machine's ridge is at {line.ridge:,.0f}."
    )
    words = {
        "products": "It waits for its products most of the time.",
        "memory": "It waits for memory most of the time.",
        "neither": "It is near neither limit: launches, or what lies between the products.",
    }
    return f"{work} {words[line.bound]}"


def _without_sum(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in parts.items() if name != "sum"}


def _model_section(step: StepRecord) -> ModelSection:
    assert step.record is not None
    bench = ModelBench.model_validate(step.record.result)
    kinds = [(bench.dtype, bench.block_s_median, bench.static_cache, bench.achieved_share)]
    if bench.compared is not None:
        other = bench.compared
        kinds.append((other.dtype, other.block_s_median, other.static_cache, other.achieved_share))
    rows: Rows = [
        (dtype, _ms(median), _ms(static.block_s_median), _times(static.ratio),
         _ms(static.packed_block_s_median), _times(static.packed_ratio), f"{share:.1%}")
        for dtype, median, static, share in kinds
    ]  # fmt: skip
    what = f"{len(bench.block_s)} blocks; {bench.frames_per_second:.1f} frames/s without codecs"
    return ModelSection(step.title, what, rows)


def _step_row(step: StepRecord) -> tuple[str, ...]:
    reason = f": {step.reason}" if step.reason else ""
    took = f"{step.seconds:.0f} of {step.limit_s:.0f}" if step.limit_s else ""
    return (step.title, f"{step.outcome}{reason}", took, step.command)


def _all_figures(record: SuiteRecord) -> Rows:
    values: dict[str, Any] = record.model_dump(mode="json")
    values["verdicts"] = {verdict["name"]: verdict for verdict in values["verdicts"]}
    return [(key, json.dumps(value)) for key, value in flatten(values).items()]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * MS:,.1f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
