"""Throughput of preprocessing against a plain loop over the same classes, and its memory.

Each measurement is a process of its own that may use one core or all. A window is decoded by
ffmpeg, a process with several threads, so that even a plain loop uses more than one core where it
may. Like is therefore compared with like: one worker with the loop, both free to use the machine;
the graph on one core with the loop on one, where Ray's own processes compete for it; the graph with
two workers with the loop on one core, and with two loops side by side, which is all that two cores
can give. A shared machine gets slower and faster by the minute, so each graph runs between two of
its loops and is compared with their mean; what two workers reach is taken of the repetitions in
which two cores were there. A rate is taken between a small and a large corpus in one process:
starting Ray and loading models cancels out, and is reported apart.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from infra.config import RunConfig
from infra.media.files import write_clip
from infra.ray_cluster import local_cluster
from infra.records import Record
from infra.terminal.progress import SilentProgress
from omniforcing_model.beacons.world import FPS, raw_caption, render_waveform, sample_beacon
from omniforcing_model.beacons.world import render_frames as render_beacon
from omniforcing_model.latent_clock import frames_for_seconds
from pipelines.benchmarks.machine.cluster_memory import peak_memory
from pipelines.benchmarks.preprocessing.plain_preprocessing import PlainPreprocessing
from pipelines.preprocessing.preprocess import preprocess

Result = TypeVar("Result")
SAMPLE_RATE = 48_000
CLIP_SIDE = 1440  # as many pixels as 1080p
CLIP_SECONDS = 5
RENDERED = 2  # the others hold the same pictures, and differ in a box that decoders skip
# The large corpus is so many times as large.
SMALL_SHARE, MIDDLE_SHARE = 10, 3
CORES = 2
# Two loops side by side that are not so many times as fast as one were not alone on their cores.
QUIET = 1.85


class MemoryPoint(Record):
    """Peak memory of a run over `rows` rows."""

    rows: int
    driver_mb: float
    all_mb: float


class PreprocessBench(Record):
    """Rows per second of every contestant (see `CONTESTANTS`); shares are medians of those in each
    repetition, that of two cores in the `quiet` ones, if any (see `QUIET`).

    `ray_ms_per_row`: what a row costs more than in the loop, on one core that Ray's own processes
    use too. `start_s`: of a run, before its rows come at that rate.
    """

    clips: int
    clip_pixels: int
    clip_seconds: int
    repetitions: int
    quiet: int
    rows_per_s: dict[str, tuple[float, ...]]
    one_worker_share: float
    one_core_share: float
    two_core_share: float
    side_by_side_share: float
    ray_ms_per_row: float
    start_s: float
    memory: tuple[MemoryPoint, ...]


class Timing(NamedTuple):
    """A contestant's rate, and the seconds before its rows come at that rate."""

    rows_per_s: float
    start_s: float


class _Corpora(NamedTuple):
    small: str
    middle: str
    large: str


def bench_preprocess(
    config: RunConfig, clips: int, repetitions: int, advance: Callable[[], None]
) -> PreprocessBench:
    """Measure `SEQUENCE` so many times; `advance` is called for each of its members in each."""
    data = config.data.model_copy(update={"seconds": CLIP_SECONDS})
    config = one_worker_per_stage(config.model_copy(update={"data": data}))
    runs: list[list[Timing]] = []
    with tempfile.TemporaryDirectory(prefix="bench-preprocess-") as folder:
        corpora = _Corpora(*(f"{folder}/{name}" for name in _Corpora._fields))
        write_corpus(Path(corpora.large), clips, config.data.seconds)
        for place, share in ((corpora.small, SMALL_SHARE), (corpora.middle, MIDDLE_SHARE)):
            copy_part(Path(corpora.large), Path(place), max(2, clips // share))
        for _ in range(repetitions):
            runs.append([])
            for name in SEQUENCE:
                runs[-1].append(CONTESTANTS[name](config, corpora))
                advance()
        # By itself: looking at the memory of all processes takes a good part of a core.
        memory = _run_on_cores(CORES, _memory_of_graph, two_workers(config), corpora)
    quiet = quiet_runs(runs)
    return PreprocessBench(
        clips=clips,
        clip_pixels=CLIP_SIDE * CLIP_SIDE,
        clip_seconds=config.data.seconds,
        repetitions=repetitions,
        quiet=len(quiet),
        rows_per_s={
            name: tuple(t.rows_per_s for t in _timings_of(runs, name)) for name in CONTESTANTS
        },
        one_worker_share=share_of(runs, "one_worker"),
        one_core_share=share_of(runs, "one_core"),
        two_core_share=share_of(quiet or runs, "two_workers"),
        side_by_side_share=share_of(runs, "two_loops"),
        ray_ms_per_row=1000 * statistics.median(1 / r - 1 / b for r, b in _pairs(runs, "one_core")),
        start_s=statistics.median(timing.start_s for timing in _timings_of(runs, "two_workers")),
        memory=tuple(memory),
    )


def _timings_of(runs: Sequence[Sequence[Timing]], name: str) -> list[Timing]:
    return [
        timing
        for run in runs
        for member, timing in zip(SEQUENCE, run, strict=True)
        if member == name
    ]


def _pairs(runs: Sequence[Sequence[Timing]], name: str) -> list[tuple[float, float]]:
    """The rate of a contestant, and the mean rate of the loops before and after it, in each run."""
    place = SEQUENCE.index(name)
    beside = [n for n in (place - 1, place + 1) if 0 <= n < len(SEQUENCE) and "loop" in SEQUENCE[n]]
    return [
        (run[place].rows_per_s, statistics.mean(run[n].rows_per_s for n in beside)) for run in runs
    ]


def quiet_runs(runs: Sequence[Sequence[Timing]]) -> list[Sequence[Timing]]:
    """The repetitions, in the order of `SEQUENCE` each, in which two cores were there."""
    return [run for run in runs if share_of([run], "two_loops") >= QUIET]


def share_of(runs: Sequence[Sequence[Timing]], name: str) -> float:
    """Median, over the repetitions, of a contestant's rate as a share of its loops'."""
    return statistics.median(rate / loops for rate, loops in _pairs(runs, name))


def one_worker_per_stage(config: RunConfig) -> RunConfig:
    """One actor for each stage."""
    return _with_replicas(config, 1)


def two_workers(config: RunConfig) -> RunConfig:
    """Two actors for the stages that do most of the work."""
    return _with_replicas(config, 2)


def write_corpus(folder: Path, clips: int, seconds: int) -> None:
    """Beacon clips of `CLIP_SIDE` pixels squared and `seconds` and one frame, with captions."""
    folder.mkdir(parents=True)
    random, frames = np.random.default_rng(0), frames_for_seconds(seconds)
    for number in range(clips):
        path = folder / f"clip_{number:05d}.mp4"
        if number < RENDERED:
            beacon = sample_beacon(random)
            mono = render_waveform(beacon, frames / FPS, SAMPLE_RATE)
            pictures = render_beacon(beacon, frames, CLIP_SIDE)
            write_clip(path, pictures, np.stack((mono, mono)), SAMPLE_RATE)
        else:
            rendered = folder / f"clip_{number % RENDERED:05d}.mp4"
            path.write_bytes(rendered.read_bytes() + _free_box(number))
        path.with_suffix(".txt").write_text(raw_caption(beacon, random), encoding="utf-8")


def copy_part(corpus: Path, folder: Path, clips: int) -> None:
    """The first clips of a corpus, as another."""
    folder.mkdir()
    for clip in sorted(corpus.glob("*.mp4"))[:clips]:
        shutil.copy(clip, folder)
        shutil.copy(clip.with_suffix(".txt"), folder)


def _free_box(number: int) -> bytes:
    content = f"{number:08d}".encode()
    return (8 + len(content)).to_bytes(4, "big") + b"free" + content


def _with_replicas(config: RunConfig, workers: int) -> RunConfig:
    cluster = config.cluster
    busy = ("clip_surveyor", "clip_decoder", "latent_encoder")
    claims = {
        name: getattr(cluster, name).model_copy(
            update={"replicas": workers, "min_replicas": workers}
        )
        for name in busy
    }
    return config.model_copy(update={"cluster": cluster.model_copy(update=claims)})


def _run_on_cores(count: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """Run `work` in a process of its own that has only so many cores."""
    return _run_on(_cores(count), work, *arguments)


def _run_on(cores: Sequence[int], work: Callable[..., Result], *arguments: Any) -> Result:
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, initializer=_pin_to, initargs=(cores,)) as pool:
        return pool.apply(work, arguments)


def _cores(count: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))[:count]


def _pin_to(cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, cores)


def _time_loop(config: RunConfig, corpora: _Corpora) -> Timing:
    times: list[tuple[int, float]] = []
    for clips in (corpora.small, corpora.large):
        began = time.monotonic()
        rows = sum(1 for _ in PlainPreprocessing(config, clips).rows())
        times.append((rows, time.monotonic() - began))
    return _rate(*times)


def _two_loops(config: RunConfig, corpora: _Corpora) -> Timing:
    """Two loops at the same time, each on a core of its own."""
    with ThreadPoolExecutor(CORES) as threads:
        loops = [
            threads.submit(_run_on, [core], _time_loop, config, corpora) for core in _cores(CORES)
        ]
        return Timing(sum(loop.result().rows_per_s for loop in loops), 0.0)


def _time_graph(config: RunConfig, corpora: _Corpora) -> Timing:
    times: list[tuple[int, float]] = []
    with local_cluster(config.cluster), tempfile.TemporaryDirectory() as folder:
        # The first one warms Ray's processes up.
        for clips in (corpora.small, corpora.small, corpora.large):
            began = time.monotonic()
            summary = preprocess(config, clips, f"{folder}/{len(times)}", SilentProgress())
            times.append((summary.ok, time.monotonic() - began))
    return _rate(*times[1:])


def _memory_of_graph(config: RunConfig, corpora: _Corpora) -> list[MemoryPoint]:
    points: list[MemoryPoint] = []
    with local_cluster(config.cluster), tempfile.TemporaryDirectory() as folder:
        preprocess(config, corpora.small, f"{folder}/warm", SilentProgress())
        for clips in corpora:
            with peak_memory() as peak:
                summary = preprocess(config, clips, f"{folder}/{len(points)}", SilentProgress())
            points.append(MemoryPoint(rows=summary.ok, **peak.value._asdict()))
    return points


def _rate(few: tuple[int, float], many: tuple[int, float]) -> Timing:
    rows_per_s = (many[0] - few[0]) / (many[1] - few[1])
    return Timing(rows_per_s, few[1] - few[0] / rows_per_s)


CONTESTANTS: dict[str, Callable[[RunConfig, _Corpora], Timing]] = {
    "loop": partial(_run_on_cores, CORES, _time_loop),
    "one_worker": partial(_run_on_cores, CORES, _time_graph),
    "one_core": partial(_run_on_cores, 1, _time_graph),
    "loop_on_one_core": partial(_run_on_cores, 1, _time_loop),
    "two_workers": lambda config, corpora: _run_on_cores(
        CORES, _time_graph, two_workers(config), corpora
    ),
    "two_loops": _two_loops,
}
# Each but the loops stands between those that it is compared with; the last one after one.
SEQUENCE = (
    "loop",
    "one_worker",
    "loop",
    "loop_on_one_core",
    "one_core",
    "loop_on_one_core",
    "two_workers",
    "loop_on_one_core",
    "two_loops",
)
