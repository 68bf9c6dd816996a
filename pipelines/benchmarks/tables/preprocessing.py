"""Benchmarks of preprocessing."""

import statistics
from collections.abc import Sequence

from pipelines.benchmarks.preprocessing.preprocess_bench import PreprocessBench
from pipelines.benchmarks.preprocessing.preprocess_dry_run import DryRun
from pipelines.benchmarks.preprocessing.preprocess_stages import StagesBench
from pipelines.benchmarks.tables.screen import in_ms, page_of, table_of


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
    return page_of(
        what,
        table_of(
            ("rows per second", "median", "lowest", "highest", "times the loop on one core"), rates
        ),
        table_of(("rows", "driver, MiB", "all processes, MiB"), memory),
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
    return page_of(what, table_of(("step", "seconds", "ms per row"), steps))


def stages_table(bench: StagesBench) -> str:
    """What `plan` expects of each stage, and what was measured."""
    rows = [
        (
            f"{stage.stage}, a {stage.unit}",
            stage.weights,
            in_ms(stage.expected_s),
            in_ms(stage.measured_s),
            "-" if stage.gpu_mb is None else f"{stage.gpu_mb:,.0f}",
        )
        for stage in bench.stages
    ]
    what = (
        f"{bench.config} on {bench.device}: each stage alone, {bench.repetitions} times;"
        f" {bench.batch} captions are rewritten together"
    )
    columns = ("stage", "weights", "plan expects, ms", "measured, ms", "GPU, MiB")
    return page_of(what, table_of(columns, rows))
