"""What the engine is measured against computes the same numbers: slower, not something else."""

import pytest
import torch
from torch import Tensor

from infra.config import RunConfig
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import roll_out
from pipelines.benchmarks.model.recompute import RecomputedStream
from pipelines.benchmarks.model.static_cache import StaticCacheStream
from pipelines.benchmarks.stand_ins.subject import SEED, Subject, random_subject

CPU = torch.device("cpu")
WITHIN_THE_WINDOW = 4
TOLERANCE = 1e-4


@pytest.fixture(params=["paper", "released"])
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_preset(
        "tiny",
        [
            "model.layers=2",
            f"model.layout.kind={request.param}",
            f"model.layout.window_blocks={WITHIN_THE_WINDOW}",
        ],
    )


def rough_subject(config: RunConfig) -> Subject:
    """With biases and norms that are not what they start from, so that each of them counts."""
    subject = random_subject(config, "float32", CPU)
    for parameter in subject.model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return subject._replace(text=subject.model.read_text(subject.features))


def largest_difference(left: PerStream[Tensor], right: PerStream[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


def static_stream(subject: Subject, blocks: int) -> StaticCacheStream:
    return StaticCacheStream(
        subject.model, subject.features, subject.grid, subject.sigmas, seeded_noise(SEED), blocks
    )


def test_the_static_cache_streams_the_same_latents(config: RunConfig) -> None:
    subject = rough_subject(config)
    ours, static = subject.rollout(), static_stream(subject, WITHIN_THE_WINDOW)
    for _ in range(WITHIN_THE_WINDOW):
        expected, actual = ours.next_block(), static.next_block()
        assert expected.video.std() > 0.1
        assert expected.audio.std() > 0.1
        assert largest_difference(expected, actual) <= TOLERANCE


def test_recomputing_gives_the_same_latents(config: RunConfig) -> None:
    subject = rough_subject(config)
    clip = roll_out(subject.rollout(), WITHIN_THE_WINDOW)
    layout = BlockLayout(config.model.layout)
    recomputed = RecomputedStream(
        subject.model, subject.text, subject.grid, subject.sigmas, seeded_noise(SEED)
    )
    for index in range(WITHIN_THE_WINDOW):
        block = layout.block(index)
        past = clip.map(lambda x, first: x[:, :first], block.first) if index else None
        here = clip.map(lambda x, first, n: x[:, first : first + n], block.first, block.count)
        assert largest_difference(recomputed.block(index, past), here) <= TOLERANCE


def test_every_weight_counts_in_the_static_cache() -> None:
    """Equality would prove little if random weights left a branch without effect."""
    subject = rough_subject(load_preset("tiny", ["model.layers=1"]))._replace(sigmas=(1.0,))
    static = static_stream(subject, 2)
    before = [static.next_block() for _ in range(2)][1]
    for name, weight in subject.model.file_tensors().items():
        original = weight.clone()
        weight.copy_(weight.roll(1, dims=-1))
        changed = static_stream(subject, 2)
        after = [changed.next_block() for _ in range(2)][1]
        assert largest_difference(before, after) > TOLERANCE, name
        weight.copy_(original)


def test_the_static_cache_grows_with_the_clip_and_ours_does_not() -> None:
    subject = random_subject(load_preset("tiny", ["model.layers=1"]), "float32", CPU)
    assert static_stream(subject, 40).nbytes() > 3 * static_stream(subject, 10).nbytes()


def test_the_static_cache_refuses_an_architecture_that_the_release_never_had() -> None:
    config = load_preset("tiny", ["model.architecture=ltx-2.3", "model.layers=1"])
    subject = random_subject(config, "float32", CPU)
    with pytest.raises(ConfigError, match=r"ltx-2\.3"):
        static_stream(subject, 2)
