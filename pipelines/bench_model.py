"""Time per macro-block of the cached rollout, against recomputing the clip so far for every block.

Both run in turn in one process on the same random weights, so that the machine's noise meets both.
The baseline is what a causal model without a cache must do: for each of a block's passes, one
masked forward over everything generated so far.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from infra.config import RunConfig
from omniforcing_model.config import FrozenConfig
from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.four_way_mask import CausalView
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.rollout import Rollout, seeded_noise
from omniforcing_model.text_context import TextContext

WARM_UP_BLOCKS = 2


class ModelBench(FrozenConfig):
    """Seconds per block, medians from block 2 on, and the cache's size."""

    block_s: tuple[float, ...]
    block_s_median: float
    recompute_block_s: tuple[float, ...]
    recompute_block_s_median: float
    speed_up: float
    cache_mb: float
    threads: int


@torch.no_grad()
def bench_model(config: RunConfig, seconds: int, advance: Callable[[], None]) -> ModelBench:
    """Stream `seconds` seconds on random weights, both ways; `advance` is called per block."""
    torch.manual_seed(0)
    model = DualStreamTransformer(config.model).eval()
    stride = config.model.spatial_stride
    grid = (config.data.height // stride, config.data.width // stride)
    text = torch.randn(1, config.codec.text_tokens, config.model.text_width)
    context = model.read_text(PerStream(text, text))
    sigmas = config.sampling.student_sigmas
    rollout = Rollout(model, context, grid, sigmas, seeded_noise(0))
    layout = BlockLayout(config.model.layout)
    cached, recomputed = [], []
    for index in range(layout.blocks_for_seconds(seconds)):
        cached.append(_seconds(rollout.next_block))
        clip = _random_clip(model, layout.latents(index + 1), grid)
        recomputed.append(_seconds(partial(_recompute, model, clip, context, len(sigmas) + 1)))
        advance()
    medians = [statistics.median(times[WARM_UP_BLOCKS:] or times) for times in (cached, recomputed)]
    return ModelBench(
        block_s=tuple(cached),
        block_s_median=medians[0],
        recompute_block_s=tuple(recomputed),
        recompute_block_s_median=medians[1],
        speed_up=medians[1] / medians[0],
        cache_mb=rollout.cache.nbytes() / 2**20,
        threads=torch.get_num_threads(),
    )


def _recompute(
    model: DualStreamTransformer, clip: PerStream[Tensor], text: TextContext, passes: int
) -> None:
    counts = PerStream(clip.video.shape[1], clip.audio.shape[1])
    grid = (clip.video.shape[3], clip.video.shape[4])
    for _ in range(passes):
        view = CausalView(model.config, counts, grid)
        model(clip, torch.zeros(1, 1), text, view)


def _random_clip(
    model: DualStreamTransformer, counts: PerStream[int], grid: tuple[int, int]
) -> PerStream[Tensor]:
    video, audio = model.config.video, model.config.audio
    return PerStream(
        torch.randn(1, counts.video, video.latent_channels, *grid),
        torch.randn(1, counts.audio, audio.latent_channels),
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
