"""Benchmarks of the engine: the model, streams, codecs and counts."""

from collections.abc import Sequence

from rich.table import Table

from pipelines.benchmarks.kernels.kernels_bench import KernelsBench
from pipelines.benchmarks.kernels.profiled_block import ProfiledBlock
from pipelines.benchmarks.model.against import Against
from pipelines.benchmarks.model.model_summary import ModelBench
from pipelines.benchmarks.model.shape_report import ShapeReport
from pipelines.benchmarks.stream.decode_bench import DecodeBench
from pipelines.benchmarks.stream.graph_bench import GraphBench
from pipelines.benchmarks.stream.stream_bench import StreamBench
from pipelines.benchmarks.tables.screen import Row, first_and_last, in_ms, page_of, ratio, table_of

PLACES_SHOWN = 20


def model_table(bench: ModelBench) -> str:
    """Ours and the baselines, the machine's rate, memory and growth."""
    end = bench.at_the_end
    ours = bench.block_s_median
    times = [
        ("cached, rolling (ours)", in_ms(ours), "1.0", in_ms(end.block_s_median)),
        (
            "static cache of the whole clip, as released",
            in_ms(bench.static_cache_block_s_median),
            ratio(bench.faster_than_static_cache),
            in_ms(end.static_cache_block_s_median),
        ),
        (
            "static cache with our products",
            in_ms(bench.static_cache.packed_block_s_median),
            ratio(bench.static_cache.packed_ratio),
            in_ms(end.packed_static_cache_block_s_median),
        ),
        (
            "recomputed, no cache",
            in_ms(bench.recompute_block_s_median),
            ratio(bench.faster_than_recompute),
            in_ms(end.recompute_block_s_median),
        ),
    ]
    passes = [
        ("ours, with history", in_ms(bench.pass_s_median), in_ms(bench.pass_s_p99)),
        ("ours, a block's tokens alone", in_ms(bench.bidirectional_pass_s_median), ""),
        ("diffusers, a block's tokens alone", in_ms(bench.diffusers_pass_s_median), ""),
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
    return page_of(
        what,
        table_of(("block of one second, ms", "median", "times ours", "last blocks"), times),
        table_of(("pass, ms", "median", "p99"), passes),
        table_of(("first second, ms", ""), ((k, in_ms(v)) for k, v in bench.first_chunk_s.items())),
        table_of(("matrix products", ""), rate),
        table_of(("memory, MiB", ""), _memory(bench)),
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
        late = f"{in_ms(growth.early_block_s_median)} to {in_ms(growth.late_block_s_median)} ms"
        rows.append(("growth of a block, early to late", late))
    return rows


def _comparison_table(bench: ModelBench) -> Table:
    assert bench.compared is not None
    other = bench.compared
    rows = [
        ("block, ms", in_ms(other.block_s_median)),
        ("the less exact one is faster, times", f"{other.speed_up:.2f}"),
        ("large square product", f"{other.gemm_flops / 1e9:,.0f} GFLOP/s"),
        ("share of the rate", f"{other.achieved_share:.1%}"),
        ("static cache as released, times ours", ratio(other.static_cache.ratio)),
        ("static cache with our products, times ours", ratio(other.static_cache.packed_ratio)),
        ("error of its latents, video", f"{other.latent_error_video:.2%}"),
        ("error of its latents, audio", f"{other.latent_error_audio:.2%}"),
    ]
    return table_of((f"beside it, {other.dtype}", ""), rows)


def stream_table(bench: StreamBench) -> str:
    """Blocks with and without decoding, the first second, and what the machine could do."""
    rows = [
        ("model", in_ms(bench.block_s_median), in_ms(bench.block_s_p99)),
        ("codecs", in_ms(bench.decode_s_median), in_ms(bench.decode_s_p99)),
        ("of which picture", in_ms(bench.decode_video_s_median), ""),
        ("of which sound", in_ms(bench.decode_audio_s_median), ""),
    ]
    cold, warm = bench.first_chunk_cold_s, bench.first_chunk_warm_s
    firsts = [(name, in_ms(cold[name]), in_ms(warm.get(name))) for name in cold]
    figures = [
        ("frames/s, model alone", f"{bench.frames_per_second:.1f}"),
        ("frames/s, decoded", f"{bench.frames_per_second_decoded:.1f}"),
        ("p99 over p50 of the model's part", f"{bench.p99_over_p50:.2f}"),
        ("caches, MiB, first and last block", first_and_last(bench.cache_mb)),
        ("memory held, MiB, first and last block", first_and_last(bench.held_mb)),
    ]
    what = (
        f"{bench.config}, {bench.seconds} s, {bench.dtype} on {bench.device},"
        f" {bench.threads} threads; codecs: {bench.codecs}; {bench.steady_blocks} of"
        f" {bench.blocks} blocks with a full window"
    )
    return page_of(
        what,
        table_of(("block of one second, ms", "median", "p99"), rows),
        table_of(("first second, ms", "cold process", "warm"), firsts),
        table_of(("stream", ""), figures),
        table_of(("the machine's own rates", "of the machine", "reached"), _limits(bench)),
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
            in_ms(line.limit_s),
            f"{line.share_of_limit:.1%}",
        ),
        ("bound by", line.bound, ""),
        ("frames/s at most", f"{bench.frames_per_second_limit:.1f}", ""),
    ]


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
    return page_of(
        f"{what}\nrelative error and PSNR of streamed frames against the whole clip's",
        table_of(
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
        ("floor of a pass, ms", in_ms(report.floor_pass_s)),
        ("floor of a block, ms", in_ms(report.floor_block_s)),
        ("floor of the first second, ms", in_ms(report.floor_first_chunk_s)),
        ("ceiling, frames/s without decoding", f"{report.floor_frames_per_second:.1f}"),
    ]  # fmt: skip
    return page_of(
        f"{report.config} in {report.dtype}: counted, not run; floors of {report.accelerator}",
        table_of(("TFLOP of a pass", "first block", "second", "steady"), rows),
        table_of(("stream", ""), figures),
    )


def kernels_table(bench: KernelsBench) -> str:
    """Kernels by kind and place, calls, waits and bytes."""
    figures = [
        ("kernels", f"{bench.kernels_per_block:,}"),
        ("of which the view, and moving pinned blocks", f"{bench.view_and_anchor_kernels:,}"),
        ("per layer and pass", f"{bench.kernels_per_layer_and_pass:.1f}"),
        ("calls of PyTorch's dispatcher", f"{bench.calls_per_block:,}"),
        ("of which beside captured passes", f"{bench.calls_beside_graphs:,}"),
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
    return page_of(
        what,
        table_of(("block", ""), figures),
        table_of(("kind", "kernels", "GB read", "GB written"), kinds),
        table_of((f"the {PLACES_SHOWN} places with most", "kernels"), places),
        *(
            table_of((title, ""), ((k, f"{v:,}") for k, v in rows.items()))
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
        ("waits of the host", f"{profile.host_syncs:,}"),
        ("copies from the host, to the host", f"{profile.uploads:,}, {profile.downloads:,}"),
        *((name, f"{count:,}") for name, count in list(profile.by_name.items())[:PLACES_SHOWN]),
    ]
    return table_of(("profiled on the GPU", ""), rows)


def against_table(bench: Against) -> str:
    """This checkout's blocks beside another's."""
    rows = [
        (
            f"{row.dtype}, {row.seconds} s, {row.threads} thread{'s' * (row.threads > 1)}",
            in_ms(row.block_s),
            in_ms(row.other_block_s),
            f"{row.faster:.2f}",
            f"{row.faster_by_processor_time:.2f}",
        )
        for row in bench.rows
    ]
    commits = f"{bench.commit[:10]} beside {bench.other_commit[:10]}"
    return page_of(
        f"{bench.config} on {bench.processor}: {commits}",
        table_of(
            ("block of one second, ms", "here", "there", "faster, times", "by processor time"), rows
        ),
    )


def graph_table(bench: GraphBench) -> str:
    """Passes as graphs beside passes one by one."""
    rows = [
        ("as graphs", in_ms(bench.graph_block_s_median), in_ms(max(bench.graph_block_s))),
        ("pass by pass", in_ms(bench.plain_block_s_median), in_ms(max(bench.plain_block_s))),
    ]
    figures = [
        ("graphs are faster, times", f"{bench.faster:.2f}"),
        ("largest difference of the latents", f"{bench.largest_difference:.1e}"),
        ("bit for bit", "yes" if bench.is_equal else "no"),
    ]
    return page_of(
        f"{bench.config}, {bench.layers} layers, {bench.dtype} on {bench.device}: passes are"
        f" {bench.way}",
        table_of(("block of one second, ms", "median", "longest"), rows),
        table_of((f"{bench.blocks} blocks", ""), figures),
    )
