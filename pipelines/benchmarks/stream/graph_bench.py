"""The same stream as graphs and pass by pass: whether both compute the same, and what graphs bring.

On a GPU passes are captured; elsewhere they are compiled whole with PyTorch's own operators, which
shows that each kind of pass is one graph, and says nothing about time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from infra.config import RunConfig
from infra.records import Record
from omniforcing_model.kernels.choice import unmeasured, using_kernels
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import CapturedPasses, CompiledPasses, Passes, denoise
from omniforcing_model.streaming.stream_batch import StreamBatch
from pipelines.benchmarks.machine.device import (
    DtypeName,
    Stopwatch,
    seconds_of,
    stopwatch_of,
)
from pipelines.benchmarks.machine.time_limit import TimeLimit
from pipelines.benchmarks.model.steady import SteadyBlocks
from pipelines.benchmarks.stand_ins.subject import SEED, Subject, random_subject

FEWEST_BLOCKS = 3


class GraphBench(Record):
    """Seconds of each block: as graphs and pass by pass, in turn. Medians are over blocks whose
    window is full; the first blocks of each kind make its graph.

    `way`: how passes become graphs here. `largest_difference`: between the latents of any block,
    over the largest value among them; 0 is bit for bit. `faster`: how many times.
    """

    config: str
    device: str
    dtype: str
    layers: int
    way: str
    blocks: int
    graph_block_s: tuple[float, ...]
    plain_block_s: tuple[float, ...]
    graph_block_s_median: float
    plain_block_s_median: float
    faster: float
    largest_difference: float
    is_equal: bool


class _Way:
    """One way to run the passes of a stream, its blocks timed."""

    def __init__(self, subject: Subject, passes: Passes, watch: Stopwatch) -> None:
        batch = StreamBatch(subject.model, subject.grid, subject.sigmas, passes=passes)
        self._stream = batch.open(0, subject.text, seeded_noise(SEED))
        self._watch = watch
        self.block_s: list[float] = []

    def next_block(self) -> PerStream[Tensor]:
        blocks: list[PerStream[Tensor]] = []

        def run() -> None:
            blocks.append(self._stream.next_block())
            self._stream.commit()

        self.block_s.append(seconds_of(self._watch, run))
        return blocks[0]


@torch.no_grad()
def bench_graphs(
    config: RunConfig,
    device: torch.device,
    dtype: DtypeName,
    limit_s: float | None,
    advance: Callable[[], None],
) -> GraphBench:
    """Stream until the window has been full for a while; `advance` is called per block."""
    limit = TimeLimit(limit_s)
    subject = random_subject(config, dtype, device)
    if device.type == "cuda":
        subject.model.seal()
        return _compare(config, subject, ("captured", CapturedPasses()), limit, advance)
    # No compiler looks into packed weights, nor into kernels that were compiled before.
    way = ("compiled whole, with PyTorch's own operators", CompiledPasses("eager"))
    with using_kernels(unmeasured()):
        return _compare(config, subject, way, limit, advance)


def _compare(
    config: RunConfig,
    subject: Subject,
    way: tuple[str, Passes],
    limit: TimeLimit,
    advance: Callable[[], None],
) -> GraphBench:
    name, passes = way
    device = subject.model.device
    watch = stopwatch_of(device)
    plain, graphs = _Way(subject, denoise, watch), _Way(subject, passes, watch)
    largest = 0.0
    for index in range(graph_blocks(config)):
        if index >= FEWEST_BLOCKS and limit.is_over():
            break
        expected, found = plain.next_block(), graphs.next_block()
        largest = max(largest, *_differences(expected, found))
        advance()
    blocks = len(plain.block_s)
    steady = SteadyBlocks(blocks, config.model.layout.full_from)
    graph_s, plain_s = steady.median(graphs.block_s), steady.median(plain.block_s)
    return GraphBench(
        config=config.name,
        device=str(device),
        dtype=str(subject.model.dtype).removeprefix("torch."),
        layers=config.model.layers,
        way=name,
        blocks=blocks,
        graph_block_s=tuple(graphs.block_s),
        plain_block_s=tuple(plain.block_s),
        graph_block_s_median=graph_s,
        plain_block_s_median=plain_s,
        faster=plain_s / graph_s,
        largest_difference=largest,
        is_equal=largest == 0,
    )


def graph_blocks(config: RunConfig) -> int:
    """Blocks in a filling window, and as many in a full one."""
    seconds = 2 * config.model.layout.full_from
    return BlockLayout(config.model.layout).blocks_for_seconds(seconds)


def _differences(expected: PerStream[Tensor], found: PerStream[Tensor]) -> list[float]:
    return [
        float((one - other).abs().max() / one.abs().max())
        for one, other in zip(expected, found, strict=True)
    ]
