"""Benchmarks as tables for people."""

import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.benchmarks.kernels.kernels_bench import KernelsBench
from pipelines.benchmarks.kernels.profiled_block import ProfiledBlock
from pipelines.benchmarks.model.model_summary import ModelBench
from pipelines.benchmarks.model.shape_report import ShapeReport
from pipelines.benchmarks.preprocessing.preprocess_bench import PreprocessBench
from pipelines.benchmarks.preprocessing.preprocess_dry_run import DryRun
from pipelines.benchmarks.preprocessing.preprocess_stages import StagesBench
from pipelines.benchmarks.stream.decode_bench import DecodeBench
from pipelines.benchmarks.stream.stream_bench import StreamBench
from pipelines.benchmarks.suite.record import SuiteRecord

WIDTH = 100
PLACES_SHOWN = 20
Row = Sequence[str]


def model_table(bench: ModelBench) -> str:
    """Ours and the baselines, the machine's rate, memory and growth."""
    end = bench.at_the_end
    ours = bench.block_s_median
    times = [
        ("cached, rolling (ours)", _ms(ours), "1.0", _ms(end.block_s_median)),
        (
            "static cache of the whole clip, as released",
            _ms(bench.static_cache_block_s_median),
            _times(bench.faster_than_static_cache),
            _ms(end.static_cache_block_s_median),
        ),
        (
            "static cache with our products",
            _ms(bench.static_cache.packed_block_s_median),
            _times(bench.static_cache.packed_ratio),
            _ms(end.packed_static_cache_block_s_median),
        ),
        (
            "recomputed, no cache",
            _ms(bench.recompute_block_s_median),
            _times(bench.faster_than_recompute),
            _ms(end.recompute_block_s_median),
        ),
    ]
    passes = [
        ("ours, with history", _ms(bench.pass_s_median), _ms(bench.pass_s_p99)),
        ("ours, a block's tokens alone", _ms(bench.bidirectional_pass_s_median), ""),
        ("diffusers, a block's tokens alone", _ms(bench.diffusers_pass_s_median), ""),
    ]
    rate = [
        ("large square product, the faster way", f"{bench.gemm_flops / 1e9:,.0f} GFLOP/s"),
        ("the same in PyTorch's own layer", f"{bench.plain_gemm_flops / 1e9:,.0f} GFLOP/s"),
        *(
            (f"product {shape}", f"{rate / 1e9:,.0f} GFLOP/s")
            for shape, rate in bench.gemm_flops_by_shape.items()
        ),
        ("a block", f"{bench.block_flops / 1e9:,.1f} GFLOP in {bench.passes_per_block} passes"),
        ("share of the rate that the blocks achieve", f"{bench.achieved_share:.1%}"),
    ]
    what = (
        f"{bench.config}, {bench.seconds} s, {bench.dtype} on {bench.device},"
        f" {bench.threads} threads: {bench.tokens_per_block} tokens a block,"
        f" {bench.text_tokens} of text; {bench.frames_per_second:.1f} frames/s without decoding"
    )
    return _page(
        what,
        _table(("block of one second, ms", "median", "times ours", "last blocks"), times),
        _table(("pass, ms", "median", "p99"), passes),
        _table(("first second, ms", ""), ((k, _ms(v)) for k, v in bench.first_chunk_s.items())),
        _table(("matrix products", ""), rate),
        _table(("memory, MiB", ""), _memory(bench)),
        *([_comparison_table(bench)] if bench.compared else []),
    )


def _memory(bench: ModelBench) -> Sequence[Row]:
    growth = bench.growth
    rows = [
        ("weights", f"{bench.weights_mb:,.1f}"),
        ("text", f"{bench.text_mb:,.1f}"),
        ("rolling caches", f"{bench.cache_mb:,.1f}"),
        ("static cache", "-" if bench.static_cache_mb is None else f"{bench.static_cache_mb:,.1f}"),
        ("peak of the process, baselines included", f"{bench.peak_memory_mb:,.1f}"),
    ]
    if growth.early_block_s_median is not None:
        late = f"{_ms(growth.early_block_s_median)} to {_ms(growth.late_block_s_median)} ms"
        rows.append(("growth of a block, early to late", late))
    return rows


def _comparison_table(bench: ModelBench) -> Table:
    assert bench.compared is not None
    other = bench.compared
    rows = [
        ("block, ms", _ms(other.block_s_median)),
        ("the less exact one is faster, times", f"{other.speed_up:.2f}"),
        ("large square product", f"{other.gemm_flops / 1e9:,.0f} GFLOP/s"),
        ("share of the rate", f"{other.achieved_share:.1%}"),
        ("static cache as released, times ours", _times(other.static_cache.ratio)),
        ("static cache with our products, times ours", _times(other.static_cache.packed_ratio)),
        ("error of its latents, video", f"{other.latent_error_video:.2%}"),
        ("error of its latents, audio", f"{other.latent_error_audio:.2%}"),
    ]
    return _table((f"beside it, {other.dtype}", ""), rows)


def stream_table(bench: StreamBench) -> str:
    """Blocks with and without decoding, the first second, and what the machine could do."""
    rows = [
        ("model", _ms(bench.block_s_median), _ms(bench.block_s_p99)),
        ("codecs", _ms(bench.decode_s_median), _ms(bench.decode_s_p99)),
        ("of which picture", _ms(bench.decode_video_s_median), ""),
        ("of which sound", _ms(bench.decode_audio_s_median), ""),
    ]
    cold, warm = bench.first_chunk_cold_s, bench.first_chunk_warm_s
    firsts = [(name, _ms(cold[name]), _ms(warm.get(name))) for name in cold]
    figures = [
        ("frames/s, model alone", f"{bench.frames_per_second:.1f}"),
        ("frames/s, decoded", f"{bench.frames_per_second_decoded:.1f}"),
        ("p99 over p50 of the model's part", f"{bench.p99_over_p50:.2f}"),
        ("caches, MiB, first and last block", _first_and_last(bench.cache_mb)),
        ("memory held, MiB, first and last block", _first_and_last(bench.held_mb)),
    ]
    what = (
        f"{bench.config}, {bench.seconds} s, {bench.dtype} on {bench.device},"
        f" {bench.threads} threads; codecs: {bench.codecs}; {bench.steady_blocks} of"
        f" {bench.blocks} blocks with a full window"
    )
    return _page(
        what,
        _table(("block of one second, ms", "median", "p99"), rows),
        _table(("first second, ms", "cold process", "warm"), firsts),
        _table(("stream", ""), figures),
        _table(("the machine's own rates", "of the machine", "reached"), _limits(bench)),
    )


def _limits(bench: StreamBench) -> Sequence[Row]:
    """The roofline: rates, the share of each that a block reaches, and what bounds it."""
    line = bench.roofline
    flops = line.work.products + line.work.attention
    return [
        (
            "large product, GFLOP/s",
            f"{flops / line.products_s / 1e9:,.0f}",
            f"{line.product_share:.1%}",
        ),
        ("memory, GB/s", f"{line.rates.bytes / 1e9:,.1f}", f"{line.bandwidth_share:.1%}"),
        (
            f"a block: {flops / 1e12:,.3f} TFLOP, {line.work.bytes / 1e9:,.2f} GB; ms",
            _ms(line.limit_s),
            f"{line.share_of_limit:.1%}",
        ),
        ("bound by", line.bound, ""),
        ("frames/s at most", f"{bench.frames_per_second_limit:.1f}", ""),
    ]


def suite_table(record: SuiteRecord, page: Path) -> str:
    """What became of each step, the figures that are asked for, and where the page is."""
    steps = [
        (step.title, f"{step.outcome}{f': {step.reason}' if step.reason else ''}",
         f"{step.seconds:.0f}")
        for step in record.steps.values()
    ]  # fmt: skip
    asked = [
        (verdict.name, "-" if verdict.figure is None else f"{verdict.figure:,.3g} {verdict.unit}",
         verdict.note or {True: "met", False: "not met", None: "not measured"}[verdict.is_met])
        for verdict in record.verdicts
    ]  # fmt: skip
    where = "on a GPU" if record.on_gpu else "on a CPU: nothing was measured on a GPU"
    return _page(
        f"{record.config}, {where}; {page} shows all of it",
        _table(("step", "outcome", "seconds"), steps),
        _table(("asked", "measured", ""), asked),
    )


def decode_table(bench: DecodeBench) -> str:
    """Errors, a row per context and a column per look-ahead."""
    rights = sorted({error.right for error in bench.errors})
    rows: dict[int | None, dict[int, str]] = {}
    for error in bench.errors:
        psnr = "equal" if error.psnr_db is None else f"{error.psnr_db:.1f} dB"
        rows.setdefault(error.left, {})[error.right] = f"{error.relative_error:.3f}  {psnr}"
    columns = ("latents decoded again", *(f"{right} held back" for right in rights))
    what = (
        f"{bench.config}, {bench.seconds} s on {bench.device}, {bench.threads} threads;"
        f" codec: {bench.codec}; latents: {bench.latents}"
    )
    return _page(
        f"{what}\nrelative error and PSNR of streamed frames against the whole clip's",
        _table(
            columns,
            (
                ("carried over" if left is None else str(left), *(cells[r] for r in rights))
                for left, cells in rows.items()
            ),
        ),
    )


def shape_table(report: ShapeReport) -> str:
    """Counts and floors."""
    passes = (
        report.pass_flops_first_block,
        report.pass_flops_second_block,
        report.pass_flops_settled,
    )
    rows = [
        (part, *(f"{flops[part] / 1e12:,.3f}" for flops in passes))
        for part in report.pass_flops_settled
    ]
    figures = [
        ("parameters", f"{report.parameters / 1e9:,.3f} billion, {report.weights_gb:,.1f} GB"),
        ("caches of a stream", f"{report.cache_mb:,.0f} MiB"),
        ("text of a stream", f"{report.text_mb:,.0f} MiB"),
        ("tokens, first and later blocks", f"{report.tokens_of_first_block}, "
         f"{report.tokens_per_block}"),
        ("a steady block", f"{report.block_flops_settled / 1e12:,.1f} TFLOP"),
        ("operations per byte read", f"{report.flops_per_byte:,.0f}"),
        ("floor of a pass, ms", _ms(report.floor_pass_s)),
        ("floor of a block, ms", _ms(report.floor_block_s)),
        ("floor of the first second, ms", _ms(report.floor_first_chunk_s)),
        ("ceiling, frames/s without decoding", f"{report.floor_frames_per_second:.1f}"),
    ]  # fmt: skip
    return _page(
        f"{report.config} in {report.dtype}: counted, not run; floors of {report.accelerator}",
        _table(("TFLOP of a pass", "first block", "second", "steady"), rows),
        _table(("stream", ""), figures),
    )


def kernels_table(bench: KernelsBench) -> str:
    """Kernels by kind and place, calls, waits and bytes."""
    figures = [
        ("kernels", f"{bench.kernels_per_block:,}"),
        ("of which the view, and moving block 0", f"{bench.view_and_anchor_kernels:,}"),
        ("per layer and pass", f"{bench.kernels_per_layer_and_pass:.1f}"),
        ("calls of PyTorch's dispatcher", f"{bench.calls_per_block:,}"),
        ("waits of the host", f"{bench.host_syncs:,}"),
        ("copies from the host, to the host", f"{bench.uploads:,}, {bench.downloads:,}"),
        ("products and attentions", f"{bench.block_flops / 1e12:,.1f} TFLOP"),
    ]
    kinds = [
        (
            kind,
            f"{count:,}",
            f"{bench.bytes_read_by_kind.get(kind, 0) / 1e9:,.2f}",
            f"{bench.bytes_written_by_kind.get(kind, 0) / 1e9:,.2f}",
        )
        for kind, count in bench.by_kind.items()
    ]
    places = [(k, f"{v:,}") for k, v in list(bench.by_place.items())[:PLACES_SHOWN]]
    counts = {
        "waits of the host": bench.host_sync_places,
        "taken for one kernel each": bench.unknown,
    }
    what = (
        f"{bench.config} in {bench.dtype}: one steady block, {bench.passes_per_block} passes;"
        " counted, not run"
    )
    return _page(
        what,
        _table(("block", ""), figures),
        _table(("kind", "kernels", "GB read", "GB written"), kinds),
        _table((f"the {PLACES_SHOWN} places with most", "kernels"), places),
        *(
            _table((title, ""), ((k, f"{v:,}") for k, v in rows.items()))
            for title, rows in counts.items()
            if rows
        ),
        *([_profile_table(bench.profile)] if bench.profile else []),
    )


def _profile_table(profile: ProfiledBlock) -> Table:
    rows = [
        ("kernels, copies and fills", f"{profile.kernels:,}"),
        ("counted", f"{profile.counted:,}"),
        ("difference", f"{profile.difference:+.1%}"),
        ("of which sums of products and attentions in parts", f"{profile.sums_of_parts:,}"),
        ("copies from the host, to the host", f"{profile.uploads:,}, {profile.downloads:,}"),
        *((name, f"{count:,}") for name, count in list(profile.by_name.items())[:PLACES_SHOWN]),
    ]
    return _table(("profiled on the GPU", ""), rows)


def _page(what: str, *tables: Table) -> str:
    screen = Console(file=io.StringIO(), width=WIDTH, record=True)
    screen.print(what)
    for table in tables:
        screen.print(table)
    return screen.export_text()


def _table(columns: Row, rows: Iterable[Row]) -> Table:
    table = Table(*columns[:1])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _first_and_last(values: Sequence[float]) -> str:
    return f"{values[0]:,.1f}, {values[-1]:,.1f}"


def preprocess_table(bench: PreprocessBench) -> str:
    """Rates beside the loop's, and the memory curve."""
    shares = {
        "loop": ("plain loop, free", ""),
        "one_worker": ("Ray, free, one worker", f"{bench.one_worker_share:.2f} of the first"),
        "loop_on_one_core": ("plain loop on one core", "1.00"),
        "one_core": ("Ray on one core", f"{bench.one_core_share:.2f}"),
        "two_workers": ("Ray on two cores, two workers", f"{bench.two_core_share:.2f}"),
        "two_loops": ("two plain loops, a core each", f"{bench.side_by_side_share:.2f}"),
    }
    rates = [
        (words, *_rate_row(bench.rows_per_s[name]), share)
        for name, (words, share) in shares.items()
    ]
    memory = [
        (f"{point.rows:,}", f"{point.driver_mb:,.0f}", f"{point.all_mb:,.0f}")
        for point in bench.memory
    ]
    what = (
        f"{bench.clips} clips of {bench.clip_seconds} s, {bench.clip_pixels:,} pixels,"
        f" {bench.repetitions} times each ({bench.quiet} quiet); Ray costs"
        f" {bench.ray_ms_per_row:.0f} ms a row on one core, and {bench.start_s:.1f} s before its"
        " rows come"
    )
    return _page(
        what,
        _table(
            ("rows per second", "median", "lowest", "highest", "times the loop on one core"), rates
        ),
        _table(("rows", "driver, MiB", "all processes, MiB"), memory),
    )


def _rate_row(rates: Sequence[float]) -> tuple[str, str, str]:
    return f"{statistics.median(rates):.2f}", f"{min(rates):.2f}", f"{max(rates):.2f}"


def dry_run_table(run: DryRun) -> str:
    """What each step of a run without media took."""
    steps = [
        (name, f"{seconds:,.1f}", f"{1e3 * seconds / run.rows:.3f}")
        for name, seconds in run.seconds.items()
    ]
    what = (
        f"{run.rows:,} rows without media: {run.rows_per_s:,.0f} rows/s, {run.ms_per_row:.2f} ms a"
        f" row; driver {run.driver_mb:,.0f} MiB ({run.driver_mb_before:,.0f} before), all processes"
        f" {run.all_mb:,.0f} MiB; {run.files:,} files"
    )
    return _page(what, _table(("step", "seconds", "ms per row"), steps))


def stages_table(bench: StagesBench) -> str:
    """What `plan` expects of each stage, and what was measured."""
    rows = [
        (
            f"{stage.stage}, a {stage.unit}",
            stage.weights,
            _ms(stage.expected_s),
            _ms(stage.measured_s),
            "-" if stage.gpu_mb is None else f"{stage.gpu_mb:,.0f}",
        )
        for stage in bench.stages
    ]
    what = (
        f"{bench.config} on {bench.device}: each stage alone, {bench.repetitions} times;"
        f" {bench.batch} captions are rewritten together"
    )
    columns = ("stage", "weights", "plan expects, ms", "measured, ms", "GPU, MiB")
    return _page(what, _table(columns, rows))
