"""The rollout: replayable, causal in its noise, flat in memory, the same in one process and two."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import ShapeError
from omniforcing_model.noise import BlockNoise, seeded_noise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.exchange import DistributedExchange
from omniforcing_model.weights.checkpoint_files import load_model, save_model

GRID = (2, 2)
SIGMAS = (1.0, 0.5)
BLOCKS = 5


def model_config() -> ModelConfig:
    model = load_preset("tiny").model
    layout = model.layout.model_copy(update={"sinks": 2, "window_blocks": 2})
    return model.model_copy(update={"layers": 2, "layout": layout})


def random_model() -> DualStreamTransformer:
    torch.manual_seed(0)
    model = DualStreamTransformer(model_config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def text_features() -> PerStream[Tensor]:
    text = torch.randn(1, 6, model_config().text_width, generator=torch.Generator().manual_seed(4))
    return PerStream(text, text)


def open_stream(model: DualStreamTransformer, noise: BlockNoise) -> Rollout:
    return Rollout(model, model.read_text(text_features()), GRID, SIGMAS, noise)


def disturbed(noise: BlockNoise, which_stream: str, which_block: int) -> BlockNoise:
    def draw(stream: str, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        drawn = noise(stream, block, step, shape)
        return drawn + 1 if (stream, block) == (which_stream, which_block) else drawn

    return draw


@torch.no_grad()
def test_a_seed_replays_the_same_stream_and_another_seed_another() -> None:
    model = random_model()
    first, again, other = (roll_out(open_stream(model, seeded_noise(s)), 3) for s in (7, 7, 8))
    assert torch.equal(first.video, again.video)
    assert torch.equal(first.audio, again.audio)
    assert not torch.allclose(first.video, other.video)


@torch.no_grad()
@pytest.mark.parametrize("stream", STREAMS)
def test_future_noise_changes_no_earlier_block_and_past_noise_changes_both_streams(
    stream: str,
) -> None:
    model = random_model()
    noise = seeded_noise(7)
    plain = [open_stream(model, noise)]
    before = [plain[0].next_block() for _ in range(BLOCKS)]
    changed = open_stream(model, disturbed(noise, stream, 2))
    after = [changed.next_block() for _ in range(BLOCKS)]
    for index in range(BLOCKS):
        for which in range(2):
            assert torch.equal(before[index][which], after[index][which]) == (index < 2)


@torch.no_grad()
def test_memory_does_not_grow_with_the_stream() -> None:
    rollout = open_stream(random_model(), seeded_noise(0))
    sizes = []
    for _ in range(12):
        rollout.next_block()
        sizes.append(rollout.cache.nbytes())
    assert sizes[1:] == [sizes[1]] * 11


@torch.no_grad()
def test_a_batch_streams_what_its_rows_stream_alone() -> None:
    model = random_model()
    text = text_features().map(lambda x: x.expand(2, -1, -1))
    together = roll_out(
        Rollout(model, model.read_text(text), GRID, SIGMAS, seeded_noise([7, 8]), batch=2), 3
    )
    alone = roll_out(open_stream(model, seeded_noise(8)), 3)
    assert (together.video[1:] - alone.video).abs().max() <= 1e-4
    assert (together.audio[1:] - alone.audio).abs().max() <= 1e-4


def run_half(rank: int, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{out}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    half = STREAMS[rank]
    model = load_model(Path(folder), halves=[half], exchange=DistributedExchange(None, 1 - rank))
    with torch.no_grad():
        for call in range(2):
            stream = open_stream(model, seeded_noise(7))
            parts = [getattr(stream.next_block(), half) for _ in range(BLOCKS)]
            torch.save(torch.cat(parts, dim=1), f"{out}/{half}_{call}.pt")
    dist.destroy_process_group()


@pytest.mark.thorough
@torch.no_grad()
def test_two_processes_with_a_half_each_stream_what_one_with_both_does(tmp_path: Path) -> None:
    model = random_model()
    save_model(tmp_path / "model", model, {})
    whole = roll_out(open_stream(model, seeded_noise(7)), BLOCKS)
    multiprocessing.spawn(run_half, args=(str(tmp_path / "model"), str(tmp_path)), nprocs=2)
    for half in STREAMS:
        first, second = (torch.load(tmp_path / f"{half}_{call}.pt") for call in range(2))
        assert (first - getattr(whole, half)).abs().max() <= 1e-5
        assert torch.equal(first, second)


def test_half_a_model_without_an_exchange_says_so() -> None:
    model = DualStreamTransformer(model_config(), halves=["video"])
    stream = Rollout(model, model.read_text(text_features()), GRID, SIGMAS, seeded_noise(0))
    with pytest.raises(ShapeError, match="an exchange"):
        stream.next_block()


def test_a_model_without_velocity_streams_noise_between_its_sigmas() -> None:
    """What is clean is what was noisy: the first noise, then the second mixed in by its sigma."""
    model = DualStreamTransformer(model_config()).eval()
    noise = seeded_noise(3)
    with torch.no_grad():
        clip = roll_out(open_stream(model, noise), 2)
        first = roll_out(open_stream(model, noise), 1, exit_step=0)
    shape = (1, 1, model.config.audio.latent_channels)
    drawn = [noise("audio", 0, step, shape) for step in (0, 1)]
    assert torch.allclose(clip.audio[:, :1], 0.5 * drawn[0] + 0.5 * drawn[1], atol=1e-6)
    assert torch.allclose(first.audio, drawn[0])
    assert clip.video.shape == (1, 4, model.config.video.latent_channels, *GRID)
    assert clip.audio.shape[1] == 26


def test_a_block_is_committed_once_and_by_the_next_one_at_the_latest() -> None:
    model = random_model()
    passes = []
    model.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[1]))
    with torch.no_grad():
        stream = open_stream(model, seeded_noise(0))
        stream.commit()
        stream.next_block()
        assert (len(passes), stream.block_index) == (2, 1)
        stream.commit()
        stream.commit()
        assert len(passes) == 3
        stream.next_block()
        stream.next_block(exit_step=0)
    # Two passes for the second block, its commit, and one for the third.
    assert (len(passes), stream.block_index) == (7, 3)


def test_a_forced_block_is_the_history_of_the_next_one() -> None:
    model, noise = random_model(), seeded_noise(1)
    with torch.no_grad():
        stream = open_stream(model, noise)
        blocks = [stream.next_block() for _ in range(2)]
        again = open_stream(model, noise)
        again.force_block(blocks[0])
        assert again.block_index == 1
        assert torch.equal(again.next_block().video, blocks[1].video)
        other = open_stream(model, noise)
        other.force_block(blocks[0].map(lambda latents: latents + 1))
        assert not torch.allclose(other.next_block().video, blocks[1].video)
