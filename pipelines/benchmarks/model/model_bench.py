"""Time per macro-block of the cached rollout, beside its baselines and the machine's own rate.

Everything runs in turn, block by block, in one process and on the same random weights, so that the
machine's noise meets all alike. Nothing is decoded.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from infra.config import RunConfig
from omniforcing_model.flop_count import block_flops, block_tokens
from omniforcing_model.kernels.packed_weights import can_pack
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.seats import Seats, Stream
from omniforcing_model.transformer.attention_view import BidirectionalView
from omniforcing_model.transformer.projections import ColumnLinear
from pipelines.benchmarks.machine.device import (
    DTYPES,
    DtypeName,
    Stopwatch,
    free_memory_bytes,
    seconds_of,
    stopwatch_of,
)
from pipelines.benchmarks.machine.gemm_rate import SQUARE_SIDE, GemmRate, ProductShape, square
from pipelines.benchmarks.machine.time_limit import TimeLimit
from pipelines.benchmarks.model.recompute import RecomputedStream
from pipelines.benchmarks.model.static_cache import StaticCacheStream
from pipelines.benchmarks.stand_ins.diffusers_pass import diffusers_is_installed, diffusers_pass
from pipelines.benchmarks.stand_ins.subject import SEED, Subject, parameter_bytes, random_subject

Baseline = Literal["recompute", "static", "static-packed", "diffusers"]
BASELINES: tuple[Baseline, ...] = ("recompute", "static", "static-packed", "diffusers")
STATIC: tuple[Baseline, ...] = ("static", "static-packed")
RECOMPUTED_BLOCKS = 12
# A block is measured in every way before the time is looked at; the compared first second needs 2.
FEWEST_BLOCKS = 3


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    `dtype` is the one that is reported; `compared`, if given, runs beside it, with a static cache
    if there is one among the `baselines`. `square_side` is of the matrix product whose rate the
    model is measured against; None: as fits the device. `limit_s`: after so many seconds no further
    block is begun.
    """

    seconds: int
    device: torch.device
    dtype: DtypeName = "float32"
    compared: DtypeName | None = None
    baselines: Collection[Baseline] = BASELINES
    square_side: int | None = None
    limit_s: float | None = None


@dataclass
class StreamTimes:
    """Seconds of one stream, a value per block."""

    steps: int
    denoise: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    cache_bytes: list[int] = field(default_factory=list)

    @property
    def block(self) -> list[float]:
        """Denoising and writing into the cache."""
        return [sum(both) for both in zip(self.denoise, self.commit, strict=True)]

    @property
    def passes(self) -> list[float]:
        """A pass of each block: the mean of those that denoise it."""
        return [seconds / self.steps for seconds in self.denoise]


class TimedRollout:
    """One subject's stream, every block and pass of it timed, beside the machine's rate."""

    def __init__(self, config: RunConfig, options: BenchOptions, dtype: DtypeName) -> None:
        self.subject = random_subject(config, dtype, options.device)
        self.dtype = dtype
        self.times = StreamTimes(len(self.subject.sigmas))
        self.watch: Stopwatch = stopwatch_of(options.device)
        self.read_text_s = 0.0
        side = options.square_side or SQUARE_SIDE[options.device.type]
        self.square = square(side)
        self.own_shapes = product_shapes(self.subject)
        self.rate = GemmRate((self.square, *self.own_shapes), DTYPES[dtype], options.device)
        self._stream: Stream | None = None
        self._captures = config.sampling.student_passes == "captured"

    @property
    def gemm_flops(self) -> float:
        """Operations per second of the large square product."""
        return self.rate.per_second(self.square)

    def start(self) -> None:
        """Lay the weights out for streaming; until then the baselines can take them as they are."""
        model = self.subject.model
        model.seal()
        self.read_text_s = seconds_of(self.watch, lambda: model.read_text(self.subject.features))
        seats = Seats(model, self.subject.grid, self.subject.sigmas, captures=self._captures)
        self._stream = seats.open(self.subject.text, seeded_noise(SEED))

    @torch.no_grad()
    def next_block(self) -> PerStream[Tensor]:
        """Stream one block; returns its clean latents."""
        assert self._stream is not None, "started"
        stream, times = self._stream, self.times
        blocks: list[PerStream[Tensor]] = []
        times.denoise.append(seconds_of(self.watch, lambda: blocks.append(stream.next_block())))
        times.commit.append(seconds_of(self.watch, stream.commit))
        times.cache_bytes.append(stream.cache.nbytes())
        self.rate.measure()
        return blocks[0]


@dataclass
class BaselineTimes:
    """Seconds of the baselines; blocks by index, passes in order.

    `static_packed`: with the linear layers' products as ours. Without `has_packed` those are
    PyTorch's own, and `static` has them already.
    """

    has_packed: bool = False

    recompute: dict[int, float] = field(default_factory=dict)
    static: list[float] = field(default_factory=list)
    static_packed: list[float] = field(default_factory=list)
    static_text: list[float] = field(default_factory=list)
    static_cache_bytes: int | None = None
    diffusers: list[float] = field(default_factory=list)
    bidirectional: list[float] = field(default_factory=list)


class Baselines:
    """The baselines on one subject's weights, block by block."""

    def __init__(self, subject: Subject, baselines: Collection[Baseline], blocks: int) -> None:
        """`blocks` is the length of the stream, which the static cache allocates."""
        noise = seeded_noise(SEED)
        stream = (subject.grid, subject.sigmas, noise)
        self.times = BaselineTimes(has_packed=_has_packed_products(subject))
        self._watch = stopwatch_of(subject.model.device)
        self._bidirectional = _bidirectional_pass(subject)
        self._recompute = self._static = self._packed = self._diffusers = None
        self._history: PerStream[Tensor] | None = None
        if "recompute" in baselines:
            self._recompute = RecomputedStream(subject.model, subject.text, *stream)
            self._recomputed = evenly_spread(blocks, RECOMPUTED_BLOCKS)
        clip = (subject.model, subject.features, *stream, blocks)
        if "static" in baselines and subject.model.config.architecture == "ltx-2.0":
            self._static = StaticCacheStream(*clip)
            self.times.static_cache_bytes = self._static.nbytes()
        if "static-packed" in baselines and self.times.has_packed:
            self._packed = StaticCacheStream(*clip, packed=True)
        if "diffusers" in baselines and _diffusers_can_run(subject):
            self._diffusers = diffusers_pass(subject)

    def block(self, index: int, latents: PerStream[Tensor]) -> None:
        """Let each of them compute block `index`, whose `latents` are part of the history then."""
        times = self.times
        self._time(times.bidirectional, self._bidirectional)
        if self._recompute is not None and index in self._recomputed:
            work = partial(self._recompute.block, index, self._history)
            times.recompute[index] = seconds_of(self._watch, work)
        if self._static is not None:
            self._time(times.static, self._static.next_block)
            self._time(times.static_text, self._static.text_pass)
        if self._packed is not None:
            self._time(times.static_packed, self._packed.next_block)
        if self._diffusers is not None:
            self._time(times.diffusers, self._diffusers)
        past = self._history
        self._history = latents if past is None else past.map(_append, latents)

    def _time(self, into: list[float], work: Callable[[], object]) -> None:
        into.append(seconds_of(self._watch, work))


@dataclass(frozen=True)
class Measured:
    """Everything that was timed, before the summary."""

    main: TimedRollout
    other: TimedRollout | None
    latent_error: PerStream[float] | None
    baselines: BaselineTimes
    other_baselines: BaselineTimes | None


@torch.inference_mode()
def measure_model(
    config: RunConfig, options: BenchOptions, advance: Callable[[], None]
) -> Measured:
    """Stream `options.seconds` seconds in every way; `advance` is called per block."""
    limit = TimeLimit(options.limit_s)
    layout = BlockLayout(config.model.layout)
    blocks = layout.blocks_for_seconds(options.seconds)
    main = Contestants(config, options, options.dtype, options.baselines, blocks)
    other = None
    if options.compared:
        beside = [name for name in options.baselines if name in STATIC]
        other = Contestants(config, options, options.compared, beside, blocks)
    contestants = [each for each in (main, other) if each is not None]
    for each in contestants:
        each.rollout.start()
    compared_at = layout.blocks_for_seconds(1) - 1  # the first second: history is still the same
    error = None
    for index in range(blocks):
        if index >= FEWEST_BLOCKS and limit.is_over():
            break
        latents = [each.block(index) for each in contestants]
        if other is not None and index == compared_at:
            if options.compared == more_exact(options.dtype, other.rollout.dtype):
                latents.reverse()
            error = latents[0].map(relative_difference, latents[1])
        advance()
    return Measured(
        main.rollout,
        other.rollout if other else None,
        error,
        main.baselines.times,
        other.baselines.times if other else None,
    )


class Contestants:
    """Our stream of one dtype and its baselines, on the same weights, block by block."""

    def __init__(
        self,
        config: RunConfig,
        options: BenchOptions,
        dtype: DtypeName,
        baselines: Collection[Baseline],
        blocks: int,
    ) -> None:
        """`blocks` is the length of the stream."""
        self.rollout = TimedRollout(config, options, dtype)
        self.baselines = Baselines(self.rollout.subject, baselines, blocks)

    def block(self, index: int) -> PerStream[Tensor]:
        """Let all compute block `index`; returns our latents."""
        latents = self.rollout.next_block()
        self.baselines.block(index, latents)
        return latents


def product_shapes(subject: Subject) -> tuple[ProductShape, ...]:
    """The three largest products of a block: into q, k, v, into and out of the feed-forward."""
    config = subject.model.config
    tokens, width = block_tokens(config, 1, subject.grid).video, config.video.width
    return (
        ProductShape(tokens, width, 3 * width),
        ProductShape(tokens, width, 4 * width),
        ProductShape(tokens, 4 * width, width),
    )


def flops_per_block(subject: Subject, blocks: int) -> list[int]:
    """Operations of each block of a stream: its denoising steps and the pass that commits it."""
    config, tokens = subject.model.config, subject.features.video.shape[1]
    passes = len(subject.sigmas) + 1
    return [
        passes * block_flops(config, index, subject.grid, tokens).total for index in range(blocks)
    ]


def evenly_spread(blocks: int, most: int) -> set[int]:
    """At most `most` of the indices below `blocks`, the first and the last among them."""
    if blocks <= most:
        return set(range(blocks))
    return {round(k * (blocks - 1) / (most - 1)) for k in range(most)}


def more_exact(one: DtypeName, other: DtypeName) -> DtypeName:
    """The one that rounds less."""
    return min(one, other, key=list(DTYPES).index)


def relative_difference(exact: Tensor, rounded: Tensor) -> float:
    """Norm of the difference over the norm of the exact one."""
    difference = torch.linalg.vector_norm(exact - rounded)
    return float(difference / torch.linalg.vector_norm(exact))


def _diffusers_can_run(subject: Subject) -> bool:
    """Whether it is installed, knows this shape, and a second copy of the weights fits."""
    model = subject.model
    fits = parameter_bytes(model) < free_memory_bytes(model.device)
    return fits and model.config.architecture == "ltx-2.0" and diffusers_is_installed()


def _has_packed_products(subject: Subject) -> bool:
    """Whether our products differ from PyTorch's own here, for a model of the release's kind."""
    model = subject.model
    packs = any(
        can_pack(module.weight) for module in model.modules() if isinstance(module, ColumnLinear)
    )
    return packs and model.config.architecture == "ltx-2.0"


def _bidirectional_pass(subject: Subject) -> Callable[[], object]:
    """Our model on a block's tokens without history: what diffusers' class computes."""
    model, config = subject.model, subject.model.config
    count = BlockLayout(config.layout).block(1).count
    latents = PerStream(
        torch.randn(1, count.video, config.video.latent_channels, *subject.grid),
        torch.randn(1, count.audio, config.audio.latent_channels),
    ).map(lambda x: x.to(model.device, model.dtype))
    view = BidirectionalView(config, count, subject.grid, model.device)
    level = model.at_noise_level(torch.full((1, 1), 0.5, device=model.device))
    return lambda: model(latents, level, subject.text, view)


def _append(past: Tensor, new: Tensor) -> Tensor:
    return torch.cat([past, new], dim=1)
