"""What the engine is measured against computes the same numbers: slower, not something else."""

import pytest
import torch
from torch import Tensor

from infra.config import RunConfig
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.kernels.packed_weights import can_pack
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import roll_out
from omniforcing_model.transformer.projections import ColumnLinear, RowLinear, pack_for_streaming
from pipelines.benchmarks.model.recompute import RecomputedStream
from pipelines.benchmarks.model.static_cache import StaticCacheStream
from pipelines.benchmarks.stand_ins.subject import SEED, Subject, random_subject

CPU = torch.device("cpu")
WITHIN_THE_WINDOW = 4
TOLERANCE = 1e-4


@pytest.fixture(params=[(1, 1), (4, 26)], ids=["paper", "released"])
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_preset(
        "tiny",
        [
            "model.layers=2",
            f"model.layout.first_block.video={request.param[0]}",
            f"model.layout.first_block.audio={request.param[1]}",
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


def static_stream(subject: Subject, blocks: int, packed: bool = False) -> StaticCacheStream:
    stream = (subject.grid, subject.sigmas, seeded_noise(SEED), blocks, packed)
    return StaticCacheStream(subject.model, subject.features, *stream)


@pytest.mark.parametrize("packed", [False, True])
def test_the_static_cache_streams_the_same_latents(config: RunConfig, packed: bool) -> None:
    subject = rough_subject(config)
    ours, static = subject.rollout(), static_stream(subject, WITHIN_THE_WINDOW, packed)
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


def test_packed_it_multiplies_as_our_packed_model_does() -> None:
    """The same library on both sides: as many weights are packed as ours packs."""
    if not can_pack(torch.ones(2, 2)):
        pytest.skip("nothing is packed here")
    subject = random_subject(load_preset("tiny", ["model.layers=1"]), "float32", CPU)
    plain, packed = static_stream(subject, 2), static_stream(subject, 2, packed=True)
    pack_for_streaming(subject.model)
    ours = [m for m in subject.model.modules() if isinstance(m, ColumnLinear | RowLinear)]
    assert all(module.weight.is_mkldnn for module in ours)
    parts = sum(len(m.parts) if isinstance(m, ColumnLinear) else 1 for m in ours)
    chosen = [t for half in packed._halves for t in half._weights.values() if t.is_mkldnn]
    assert len(chosen) == parts
    assert not any(t.is_mkldnn for half in plain._halves for t in half._weights.values())


def test_the_static_cache_grows_with_the_clip_and_ours_does_not() -> None:
    subject = random_subject(load_preset("tiny", ["model.layers=1"]), "float32", CPU)
    assert static_stream(subject, 40).nbytes() > 3 * static_stream(subject, 10).nbytes()


def test_the_static_cache_refuses_an_architecture_that_the_release_never_had() -> None:
    config = load_preset("tiny", ["model.architecture=ltx-2.3", "model.layers=1"])
    subject = random_subject(config, "float32", CPU)
    with pytest.raises(ConfigError, match=r"ltx-2\.3"):
        static_stream(subject, 2)
