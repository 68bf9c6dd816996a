"""Whole streams on random weights: text, blocks, picture and sound, what each of them takes, and
what the machine could do.

Unlike a server, one thing is done after the other: these are the parts, not what overlaps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.latent_clock import VIDEO_FPS
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.machine.device import DtypeName, peak_memory_mb
from pipelines.benchmarks.machine.roofline import MachineRates, Roofline, roofline
from pipelines.benchmarks.machine.time_limit import TimeLimit
from pipelines.benchmarks.model.pass_work import block_work
from pipelines.benchmarks.model.steady import SteadyBlocks
from pipelines.benchmarks.stream.timed_stream import PROMPTS, StreamEngine, TimedStream

COLD_SHARE = 0.6  # of the time there is: what the first stream may take at most


class StreamOptions(NamedTuple):
    """What is streamed.

    `seconds`: of the second stream; the first ends once its window has rolled. `limit_s`: after so
    many seconds no further block is begun, beyond those that a figure needs. `square_side` and
    `copied_mib`: as of `MachineRates`.
    """

    seconds: int
    device: torch.device
    dtype: DtypeName = "float32"
    limit_s: float | None = None
    square_side: int | None = None
    copied_mib: int | None = None


class StreamBench(Record):
    """Seconds unless the name says otherwise, of the second stream of a process; medians and
    percentiles are over its blocks whose window is full.

    `block_s` is the model's part of a block, `decode_s` both codecs'; `cold_block_s` the former of
    the first stream, which ends once its window has rolled. `p99_over_p50`: of the model's part.
    `first_chunk_cold_s`, `first_chunk_warm_s`: the first whole second of picture and sound of the
    first stream and of the second, in their parts, in order, from the prompt to bytes of MP4; a run
    without a text encoder here has no `encode_text`. `frames_per_second` is the model alone,
    `frames_per_second_decoded` with the codecs after it; `frames_per_second_limit` what the
    roofline leaves the model. `held_mb`: memory after each block, which must not grow with the
    stream.
    """

    config: str
    device: str
    dtype: str
    threads: int
    seconds: int
    blocks: int
    steady_blocks: int
    codecs: str
    cold_block_s: tuple[float, ...]
    block_s: tuple[float, ...]
    block_s_median: float
    block_s_p99: float
    p99_over_p50: float
    decode_s: tuple[float, ...]
    decode_s_median: float
    decode_s_p99: float
    decode_video_s_median: float
    decode_audio_s_median: float
    frames: int
    frames_per_second: float
    frames_per_second_decoded: float
    frames_per_second_limit: float
    first_chunk_cold_s: dict[str, float]
    first_chunk_warm_s: dict[str, float]
    roofline: Roofline
    cache_mb: tuple[float, ...]
    held_mb: tuple[float, ...]
    peak_memory_mb: float


@torch.inference_mode()
def bench_stream(
    config: RunConfig, options: StreamOptions, advance: Callable[[], None]
) -> StreamBench:
    """Stream twice and decode it; `advance` is called per block."""
    limit = TimeLimit(options.limit_s)
    engine = StreamEngine(config, options.device, options.dtype)
    cold_blocks, blocks = planned_blocks(config, options.seconds)
    cold = engine.open(PROMPTS[0], engine.subject.features)
    for index in range(cold_blocks):
        if cold.blocks > engine.first_blocks and limit.is_over(COLD_SHARE):
            break
        cold.next_block(final=index == cold_blocks - 1)
        advance()
    rates = MachineRates(options.dtype, options.device, options.square_side, options.copied_mib)
    warm = engine.open(PROMPTS[1], engine.other_features())
    for index in range(blocks):
        if warm.blocks > engine.first_blocks and limit.is_over():
            break
        warm.next_block(final=index == blocks - 1)
        if warm.first_chunk:
            rates.measure()
        advance()
    return _summary(config, options, engine, (cold, warm), rates)


def planned_blocks(config: RunConfig, seconds: int) -> tuple[int, int]:
    """Blocks of the first stream and of the second.

    The first ends when every kind of pass has run: blocks in a filling window, in a full one, and
    one after another has left it.
    """
    blocks = BlockLayout(config.model.layout).blocks_for_seconds(seconds)
    return min(blocks, config.model.layout.full_from + 2), blocks


def _summary(
    config: RunConfig,
    options: StreamOptions,
    engine: StreamEngine,
    streams: tuple[TimedStream, TimedStream],
    rates: MachineRates,
) -> StreamBench:
    cold, stream = streams
    steady = SteadyBlocks(stream.blocks, config.model.layout.full_from)
    every_s = [sum(parts) for parts in zip(stream.block, stream.decode, strict=True)]
    median, p99 = steady.median(stream.block), steady.p99(stream.block)
    limit = roofline(block_work(config, options.dtype), rates.rates(), median)
    return StreamBench(
        config=config.name,
        device=str(options.device),
        dtype=options.dtype,
        threads=torch.get_num_threads(),
        seconds=options.seconds,
        blocks=stream.blocks,
        steady_blocks=len(steady.of(stream.block)),
        codecs=engine.codecs.what,
        cold_block_s=tuple(cold.block),
        block_s=tuple(stream.block),
        block_s_median=median,
        block_s_p99=p99,
        p99_over_p50=p99 / median,
        decode_s=tuple(stream.decode),
        decode_s_median=steady.median(stream.decode),
        decode_s_p99=steady.p99(stream.decode),
        decode_video_s_median=steady.median(stream.decode_video),
        decode_audio_s_median=steady.median(stream.decode_audio),
        frames=sum(stream.frames),
        frames_per_second=VIDEO_FPS / median,
        frames_per_second_decoded=VIDEO_FPS / steady.median(every_s),
        frames_per_second_limit=VIDEO_FPS / limit.limit_s,
        first_chunk_cold_s=cold.first_chunk,
        first_chunk_warm_s=stream.first_chunk,
        roofline=limit,
        cache_mb=tuple(stream.cache_mb),
        held_mb=tuple(stream.held_mb),
        peak_memory_mb=peak_memory_mb(options.device),
    )
