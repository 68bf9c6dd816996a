"""What the sections of the page show, from the record of a run."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.runs.provenance import flatten
from pipelines.benchmarks.kernels.kernels_bench import KernelsBench
from pipelines.benchmarks.kernels.profiled_block import ProfiledBlock
from pipelines.benchmarks.model.model_summary import ModelBench
from pipelines.benchmarks.stream.graph_bench import GraphBench
from pipelines.benchmarks.stream.stream_bench import StreamBench
from pipelines.benchmarks.suite.charts import (
    Chart,
    block_chart,
    first_second_chart,
    kinds_chart,
    pair_chart,
    roofline_chart,
    si,
)
from pipelines.benchmarks.suite.record import SHARE, StepRecord, SuiteRecord, Verdict
from pipelines.reports.parts import COMMIT_CHARACTERS, Tile, duration

TITLE = "OmniForcing on Ray: engine benchmarks"
MS = 1e3
SHOWN = 12
SHOWN_CHARACTERS = 90
WHOLE_FROM = 100  # beyond this, digits after the point say nothing
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


class GraphSection(NamedTuple):
    """Passes as graphs and one by one."""

    title: str
    what: str
    blocks: Chart
    rows: Rows


class KernelsSection(NamedTuple):
    """What a block launches, by kind and by place, and the same in a profile if there is one."""

    title: str
    what: str
    kinds: Chart
    kind_rows: Rows
    place_rows: Rows
    profile_rows: Rows


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
    graphs: list[GraphSection]
    kernels: list[KernelsSection]
    steps: Rows
    facts: Rows
    figures: Rows


def suite_page(record: SuiteRecord) -> SuitePage:
    """The page of a record."""
    results = [
        (step, step.record.result) for step in record.steps.values() if step.record is not None
    ]
    streams = {
        step.title: StreamBench.model_validate(result)
        for step, result in results
        if step.name.startswith("stream")
    }
    return SuitePage(
        title=TITLE,
        lead=_lead(record),
        notice=_notice(record),
        tiles=_tiles(streams),
        verdicts=[_verdict_row(verdict) for verdict in record.verdicts],
        streams=[_stream_section(title, bench) for title, bench in streams.items()],
        models=[
            _model_section(step.title, ModelBench.model_validate(result))
            for step, result in results
            if step.name == "model"
        ],
        graphs=[
            _graph_section(step.title, GraphBench.model_validate(result))
            for step, result in results
            if step.name == "graphs"
        ],
        kernels=[
            _kernels_section(step.title, KernelsBench.model_validate(result))
            for step, result in results
            if step.name in ("kernels", "profile")
        ],
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
    unit = verdict.unit
    bounds = []
    if verdict.required is not None:
        bounds.append(f"{sign} {_number(verdict.required, unit)}")
    if verdict.aimed is not None:
        bounds.append(f"aim {_number(verdict.aimed, unit)}")
    states = {True: "ok", False: "missed", None: "open"}
    shown_unit = "" if unit == SHARE else unit
    figure = "-"
    if verdict.figure is not None:
        figure = f"{_number(verdict.figure, unit)} {shown_unit}".strip()
    return VerdictRow(
        verdict.name,
        figure,
        ", ".join(bounds),
        states[verdict.is_met],
        verdict.note or {True: "met", False: "not met", None: "not measured"}[verdict.is_met],
    )


def _number(value: float, unit: str) -> str:
    if unit == SHARE:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= WHOLE_FROM else f"{value:.3g}"


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


def _model_section(title: str, bench: ModelBench) -> ModelSection:
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
    return ModelSection(title, what, rows)


def _graph_section(title: str, bench: GraphBench) -> GraphSection:
    equal = "bit for bit" if bench.is_equal else f"within {bench.largest_difference:.1e}"
    return GraphSection(
        title=title,
        what=f"Passes are {bench.way}; latents of {bench.blocks} blocks are the same {equal}.",
        blocks=pair_chart({"graphs": bench.graph_block_s, "one by one": bench.plain_block_s}),
        rows=[
            ("as graphs", _ms(bench.graph_block_s_median), f"{bench.faster:.2f}"),
            ("pass by pass", _ms(bench.plain_block_s_median), "1.00"),
        ],
    )


def _kernels_section(title: str, bench: KernelsBench) -> KernelsSection:
    moved = {
        kind: bench.bytes_read_by_kind.get(kind, 0) + bench.bytes_written_by_kind.get(kind, 0)
        for kind in bench.by_kind
    }
    profile = bench.profile
    return KernelsSection(
        title=title,
        what=(
            f"{bench.config}, {bench.dtype}: {bench.kernels_per_block:,} kernels a block in"
            f" {bench.passes_per_block} passes, {bench.kernels_per_layer_and_pass:.1f} a layer and"
            f" pass, {bench.view_and_anchor_kernels:,} of them for the view and for moving block 0;"
            f" {bench.calls_per_block:,} calls of PyTorch's operators; the host waits"
            f" {bench.host_syncs:,} times; {si(bench.bytes_read + bench.bytes_written)}B read and"
            " written"
        ),
        kinds=kinds_chart(bench.by_kind),
        kind_rows=[
            (kind, f"{count:,}", f"{count / bench.kernels_per_block:.1%}", f"{si(moved[kind])}B")
            for kind, count in bench.by_kind.items()
        ],
        place_rows=[(place, f"{n:,}") for place, n in list(bench.by_place.items())[:SHOWN]],
        profile_rows=_profile_rows(profile) if profile is not None else [],
    )


def _profile_rows(profile: ProfiledBlock) -> Rows:
    return [
        ("in the profile", f"{profile.kernels:,}"),
        ("counted", f"{profile.counted:,}"),
        ("more in the profile", f"{profile.difference:+.1%}"),
        ("sums of parts of a product or an attention", f"{profile.sums_of_parts:,}"),
        ("copies from and to the host", f"{profile.uploads + profile.downloads:,}"),
        *((name[:SHOWN_CHARACTERS], f"{n:,}") for name, n in list(profile.by_name.items())[:SHOWN]),
    ]


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
