"""What was timed, in a summary: medians, ratios, shares of the machine's rate, memory, growth."""

import statistics
from collections.abc import Sequence

import torch

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.flop_count import block_flops, block_tokens
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.machine.device import MIB, peak_memory_mb
from pipelines.benchmarks.model.model_bench import (
    BaselineTimes,
    BenchOptions,
    Measured,
    TimedRollout,
    flops_per_block,
    more_exact,
)
from pipelines.benchmarks.model.steady import SteadyBlocks
from pipelines.benchmarks.stand_ins.subject import Subject, parameter_bytes

LAST_BLOCKS = 3


class StaticCache(Record):
    """Medians of the static cache in one dtype, and how many times as long they are as ours.

    `packed_*`: with the same linear library on both sides: what is left is what cache, fusing and
    modulation are worth. Where ours multiplies with PyTorch's own, as on a GPU, it is the same
    measurement.
    """

    block_s_median: float | None
    ratio: float | None
    packed_block_s_median: float | None
    packed_ratio: float | None


class ComparedDtype(Record):
    """The same stream in another dtype.

    `speed_up`: how many times as fast the less exact dtype is, whichever of them was reported.
    `latent_error_*`: its latents of the first second against the more exact one's, norm of the
    difference over the norm.
    """

    dtype: str
    block_s_median: float
    gemm_flops: float
    achieved_share: float
    speed_up: float
    latent_error_video: float
    latent_error_audio: float
    static_cache: StaticCache


class Growth(Record):
    """What a longer stream costs, once the window is full: the early blocks against the late.

    Empty streams of fewer than six such blocks have no figures.
    """

    early_block_s_median: float | None
    late_block_s_median: float | None
    cache_mb_full: float
    cache_mb_end: float


class LastBlocks(Record):
    """Medians over the last three blocks, where those that grow are slowest."""

    block_s_median: float
    recompute_block_s_median: float | None
    static_cache_block_s_median: float | None
    packed_static_cache_block_s_median: float | None


class ModelBench(Record):
    """Seconds unless the name says otherwise; medians are over blocks whose window is full.

    `block_s`: denoising steps and the pass that commits a block. `pass_s_*`: of the former, a
    block's mean.
    `static_cache_text_block_s_median`: the part of the static cache's block that goes into text
    keys and values. `bidirectional_pass_s_median`: our model on the tokens that diffusers' class
    gets, without history. `gemm_flops`: operations per second of a large square product, in the
    fastest way there is here; `plain_gemm_flops`: with PyTorch's own linear layer.
    `achieved_share`: counted operations of the blocks per second, over the former. `memory_mb`:
    weights, text and caches of one stream, in MiB.
    """

    config: str
    device: str
    dtype: str
    threads: int
    seconds: int
    tokens_per_block: int
    text_tokens: int
    passes_per_block: int
    block_s: tuple[float, ...]
    block_s_median: float
    block_s_p99: float
    denoise_s_median: float
    commit_s_median: float
    pass_s_median: float
    pass_s_p99: float
    frames_per_second: float
    first_chunk_s: dict[str, float]
    recompute_block_s: dict[int, float]
    recompute_block_s_median: float | None
    static_cache_block_s: tuple[float, ...]
    static_cache_block_s_median: float | None
    static_cache_text_block_s_median: float | None
    diffusers_pass_s_median: float | None
    bidirectional_pass_s_median: float
    faster_than_recompute: float | None
    faster_than_static_cache: float | None
    static_cache: StaticCache
    at_the_end: LastBlocks
    gemm_flops: float
    plain_gemm_flops: float
    gemm_flops_by_shape: dict[str, float]
    pass_flops: int
    block_flops: int
    achieved_share: float
    compared: ComparedDtype | None
    parameters: int
    memory_mb: float
    weights_mb: float
    text_mb: float
    cache_mb: float
    static_cache_mb: float | None
    peak_memory_mb: float
    growth: Growth


def bench_summary(config: RunConfig, options: BenchOptions, measured: Measured) -> ModelBench:
    """The figures of one run."""
    main, against = measured.main, measured.baselines
    times, blocks = main.times, len(main.times.denoise)
    subject = main.subject
    passes = len(subject.sigmas) + 1
    steady = _steady_blocks(main)
    recomputed = [seconds for k, seconds in against.recompute.items() if k >= steady.first]
    median, recompute = steady.median(times.block), median_of(recomputed)
    static = _static_cache(main, against)
    weights, text = parameter_bytes(subject.model), _text_bytes(subject)
    return ModelBench(
        config=config.name,
        device=str(options.device),
        dtype=options.dtype,
        threads=torch.get_num_threads(),
        seconds=options.seconds,
        tokens_per_block=sum(block_tokens(config.model, 1, subject.grid)),
        text_tokens=subject.features.video.shape[1],
        passes_per_block=passes,
        block_s=tuple(times.block),
        block_s_median=median,
        block_s_p99=steady.p99(times.block),
        denoise_s_median=steady.median(times.denoise),
        commit_s_median=steady.median(times.commit),
        pass_s_median=steady.median(times.passes),
        pass_s_p99=steady.p99(times.passes),
        frames_per_second=VIDEO_FPS / median,
        first_chunk_s=_first_chunk(main),
        recompute_block_s=against.recompute,
        recompute_block_s_median=recompute,
        static_cache_block_s=tuple(against.static),
        static_cache_block_s_median=static.block_s_median,
        static_cache_text_block_s_median=(
            passes * steady.median(against.static_text) if against.static_text else None
        ),
        diffusers_pass_s_median=median_of(steady.of(against.diffusers)),
        bidirectional_pass_s_median=steady.median(against.bidirectional),
        faster_than_recompute=recompute / median if recompute else None,
        faster_than_static_cache=static.ratio,
        static_cache=static,
        at_the_end=_last_blocks(measured),
        gemm_flops=main.gemm_flops,
        plain_gemm_flops=main.rate.plain_per_second(main.square),
        gemm_flops_by_shape={str(s): main.rate.per_second(s) for s in main.own_shapes},
        pass_flops=block_flops(
            config.model, blocks - 1, subject.grid, subject.features.video.shape[1]
        ).total,
        block_flops=flops_per_block(subject, blocks)[-1],
        achieved_share=_achieved_share(main),
        compared=_comparison(measured),
        parameters=sum(p.numel() for p in subject.model.parameters()),
        memory_mb=(weights + text + times.cache_bytes[-1]) / MIB,
        weights_mb=weights / MIB,
        text_mb=text / MIB,
        cache_mb=times.cache_bytes[-1] / MIB,
        static_cache_mb=_mib(against.static_cache_bytes),
        peak_memory_mb=peak_memory_mb(options.device),
        growth=_growth(main),
    )


def median_of(times: Sequence[float]) -> float | None:
    """Median, None of nothing."""
    return statistics.median(times) if times else None


def _steady_blocks(rollout: TimedRollout) -> SteadyBlocks:
    full = rollout.subject.model.config.layout.full_from
    return SteadyBlocks(len(rollout.times.denoise), full)


def _first_chunk(main: TimedRollout) -> dict[str, float]:
    """What the first second needs before it can be decoded: nothing is warm yet."""
    blocks = BlockLayout(main.subject.model.config.layout).blocks_for_seconds(1)
    parts = {"read_text": main.read_text_s}
    for index in range(blocks):
        parts[f"block_{index}"] = main.times.denoise[index]
        if index + 1 < blocks:
            parts[f"commit_{index}"] = main.times.commit[index]
    return parts | {"sum": sum(parts.values())}


def _last_blocks(measured: Measured) -> LastBlocks:
    against, blocks = measured.baselines, len(measured.main.times.denoise)
    recomputed = [s for k, s in against.recompute.items() if k >= blocks - LAST_BLOCKS]
    return LastBlocks(
        block_s_median=statistics.median(measured.main.times.block[-LAST_BLOCKS:]),
        recompute_block_s_median=median_of(recomputed),
        static_cache_block_s_median=median_of(against.static[-LAST_BLOCKS:]),
        packed_static_cache_block_s_median=median_of(_packed(against)[-LAST_BLOCKS:]),
    )


def _static_cache(ours: TimedRollout, against: BaselineTimes) -> StaticCache:
    steady = _steady_blocks(ours)
    median, static = steady.median(ours.times.block), median_of(steady.of(against.static))
    packed = median_of(steady.of(_packed(against)))
    return StaticCache(
        block_s_median=static,
        ratio=static / median if static else None,
        packed_block_s_median=packed,
        packed_ratio=packed / median if packed else None,
    )


def _packed(against: BaselineTimes) -> Sequence[float]:
    """With the same products as ours: PyTorch's own where ours are those."""
    return against.static_packed or ([] if against.has_packed else against.static)


def _achieved_share(rollout: TimedRollout) -> float:
    flops = flops_per_block(rollout.subject, len(rollout.times.denoise))
    rates = [count / seconds for count, seconds in zip(flops, rollout.times.block, strict=True)]
    return _steady_blocks(rollout).median(rates) / rollout.gemm_flops


def _comparison(measured: Measured) -> ComparedDtype | None:
    other, error, against = measured.other, measured.latent_error, measured.other_baselines
    if other is None or error is None or against is None:
        return None
    main_s, other_s = (_steady_blocks(r).median(r.times.block) for r in (measured.main, other))
    exact = more_exact(measured.main.dtype, other.dtype)
    return ComparedDtype(
        dtype=other.dtype,
        block_s_median=other_s,
        gemm_flops=other.gemm_flops,
        achieved_share=_achieved_share(other),
        speed_up=main_s / other_s if exact == measured.main.dtype else other_s / main_s,
        latent_error_video=error.video,
        latent_error_audio=error.audio,
        static_cache=_static_cache(other, against),
    )


def _mib(count: int | None) -> float | None:
    return None if count is None else count / MIB


def _text_bytes(subject: Subject) -> int:
    """Keys and values of every layer; LTX-2.3 has them once per noise level."""
    config = subject.model.config
    levels = len(subject.sigmas) + 1 if config.modulated_text else 1
    values = 2 * config.layers * (config.video.width + config.audio.width)
    features = subject.features.video
    return levels * values * features.shape[1] * features.element_size()


def _growth(main: TimedRollout) -> Growth:
    first = main.subject.model.config.layout.full_from
    full = main.times.block[first:]
    third = len(full) // 3
    enough = third >= 2
    sizes = main.times.cache_bytes
    return Growth(
        early_block_s_median=statistics.median(full[:third]) if enough else None,
        late_block_s_median=statistics.median(full[-third:]) if enough else None,
        cache_mb_full=sizes[min(first, len(sizes) - 1)] / MIB,
        cache_mb_end=sizes[-1] / MIB,
    )
