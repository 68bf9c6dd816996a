"""A stream of an hour is computed as exactly, and as cheaply, as its first seconds."""

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.benchmarks.kernels.kernel_counter import KernelCounter, KernelCounts
from tests.worlds.layouts import layout_of

GRID = (1, 2)
LAYERS, WINDOW = 2, 2
MINUTE, HOUR = 60, 3600
# Context reaches back at most a window per layer; after that many equal blocks, streams agree.
BLOCKS_OF_CONTEXT = (LAYERS + 2) * (WINDOW + 1)
BF16_NOISE = 2.0**-8  # of a value of size 1


def small_config(phases: str, **values: Any) -> ModelConfig:
    model = load_preset("tiny").model
    layout = layout_of(window_blocks=WINDOW, sinks=4, **values)
    rotary = model.rotary.model_copy(update={"phases": phases})
    return model.model_copy(update={"layers": LAYERS, "layout": layout, "rotary": rotary})


@torch.no_grad()
def random_model(config: ModelConfig) -> DualStreamTransformer:
    """Weights that keep every activation at a size of about 1."""
    generator = torch.Generator().manual_seed(0)
    model = DualStreamTransformer(config)
    for name, tensor in model.file_tensors().items():
        scale = tensor.shape[-1] ** -0.5 if name.endswith("weight") else 0.3
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
        if "norm" in name:
            tensor.add_(1)
    return model.eval().requires_grad_(False)


def random_text(config: ModelConfig) -> PerStream[Tensor]:
    text = torch.randn(1, 6, config.text_width, generator=torch.Generator().manual_seed(4))
    return PerStream(text, text)


def block_latents(config: ModelConfig, index: int) -> PerStream[Tensor]:
    """The same latents in every block after the first."""
    generator = torch.Generator().manual_seed(min(index, 1))
    count = BlockLayout(config.layout).block(index).count
    return PerStream(
        torch.randn(1, count.video, config.video.latent_channels, *GRID, generator=generator),
        torch.randn(1, count.audio, config.audio.latent_channels, generator=generator),
    )


def velocity_at(model: DualStreamTransformer, second: int) -> PerStream[Tensor]:
    """What the model says of a noisy block at `second`, after blocks that were all the same.

    The stream jumps from its first block to shortly before: by then nothing else is in the window.
    """
    text = model.read_text(random_text(model.config))
    rollout = Rollout(model, text, GRID, (1.0,), seeded_noise(0))
    for index in range(model.config.layout.pinned_blocks):
        rollout.force_block(block_latents(model.config, index))
    rollout.block_index = second - BLOCKS_OF_CONTEXT
    for index in range(second - BLOCKS_OF_CONTEXT, second):
        rollout.force_block(block_latents(model.config, index))
    rollout.commit()
    noisy = block_latents(model.config, 1).map(lambda x: x.flip(1))
    velocity: PerStream[Tensor] = model(
        noisy, torch.tensor([[0.7]]), text, CachedView(rollout.cache, rollout.block_index)
    )
    return velocity


def difference(ours: PerStream[Tensor], theirs: PerStream[Tensor]) -> float:
    """The largest difference, in standard deviations of a stream."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.std()) for a, b in pairs)


def test_a_block_after_an_hour_is_that_of_the_first_minute() -> None:
    model = random_model(small_config("float64"))
    assert difference(velocity_at(model, HOUR), velocity_at(model, MINUTE)) <= BF16_NOISE / 10


@pytest.mark.parametrize(
    "values",
    [
        {"pinned_blocks": 3, "first_block": {"video": 1, "audio": 2}},
        {"pinned_blocks": 2, "cross_view": "own"},
    ],
    ids=["echo", "own"],
)
def test_an_hour_later_any_pinned_blocks_that_follow_are_seen_as_in_the_first_minute(
    values: dict[str, Any],
) -> None:
    model = random_model(small_config("float64", **values))
    assert difference(velocity_at(model, HOUR), velocity_at(model, MINUTE)) <= BF16_NOISE / 10


def test_an_anchor_that_stays_is_seen_ever_farther_away() -> None:
    """The control: what a moved anchor is for."""
    model = random_model(small_config("float64", anchor="stays"))
    assert difference(velocity_at(model, HOUR), velocity_at(model, MINUTE)) > BF16_NOISE


def test_positions_in_float32_would_drift_above_bfloat16_noise_within_the_hour() -> None:
    """The control: what the float64 phases are for."""
    model = random_model(small_config("float32"))
    assert difference(velocity_at(model, HOUR), velocity_at(model, MINUTE)) > BF16_NOISE


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.fixture(scope="module")
def ten_minutes() -> tuple[list[float], list[tuple[int, int]]]:
    """Processor seconds of every block of a long stream; bytes of its cache, and of the process,
    after it."""
    model = random_model(small_config("float64"))
    text = model.read_text(random_text(model.config))
    rollout = Rollout(model, text, (4, 4), (1.0, 0.9, 0.7, 0.4), seeded_noise(0))
    seconds, sizes = [], []
    for _ in range(600):
        began = time.process_time()
        rollout.next_block()
        seconds.append(time.process_time() - began)
        sizes.append((rollout.cache.nbytes(), resident_bytes()))
    return seconds, sizes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_minutes_do_not_grow_in_memory(ten_minutes) -> None:
    _, sizes = ten_minutes
    for early, late in zip(sizes[20], sizes[-1], strict=True):
        assert late <= 1.02 * early


@pytest.mark.quiet
@pytest.mark.timeout(600)
def test_a_block_after_ten_minutes_takes_as_long_as_an_early_one(ten_minutes) -> None:
    seconds, _ = ten_minutes
    assert statistics.median(seconds[-100:]) <= 1.05 * statistics.median(seconds[20:120])


def test_a_block_after_ten_minutes_asks_for_as_many_operations_as_an_early_one() -> None:
    early, late = (counts_of_block(index) for index in (20, 600))
    assert late.calls == early.calls
    assert late.by_kind == early.by_kind
    assert late.read_by_kind == early.read_by_kind


def counts_of_block(index: int) -> KernelCounts:
    """Of denoising and committing a block, on a CPU; the stream has jumped to the one before it."""
    model = random_model(small_config("float64"))
    text = model.read_text(random_text(model.config))
    rollout = Rollout(model, text, GRID, (1.0, 0.9, 0.7, 0.4), seeded_noise(0))
    rollout.force_block(block_latents(model.config, 0))
    rollout.commit()
    rollout.block_index = index - 1
    with torch.no_grad():
        rollout.next_block()
        rollout.commit()
        with KernelCounter(model, torch.device("cpu")) as counts:
            rollout.next_block()
            rollout.commit()
    return counts


def test_a_block_of_the_19b_models_width_runs_without_a_value_on_the_host() -> None:
    """On the meta device there are shapes only: any read of a value would be an error, as it would
    be a wait for the GPU."""
    config = load_preset("paper").model.model_copy(update={"layers": 4})
    with torch.device("meta"):
        model = DualStreamTransformer(config).eval().requires_grad_(False)
        text = model.read_text(PerStream(*(torch.empty(1, 1024, config.text_width),) * 2))
    rollout = Rollout(model, text, (16, 24), (1.0, 0.9, 0.7, 0.4), seeded_noise(0))
    for index in range(3):
        block = rollout.next_block()
        count = BlockLayout(config.layout).block(index).count
        assert block.video.shape == (1, count.video, 128, 16, 24)
        assert block.audio.shape == (1, count.audio, 128)
