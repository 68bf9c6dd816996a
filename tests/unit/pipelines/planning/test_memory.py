"""The memory plan's formulas against the model they are about."""

import pytest
import torch

from infra.config import RunConfig
from infra.presets import load_preset
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.planning.memory import cache_bytes, memory_plan, parameter_counts, rank_memory

SHAPES = [
    (),
    ("model.layers=2", "model.text_width=48", "model.layout.sinks=3"),
    ("model.video.heads=2", "model.audio.head_dim=24", "model.video.latent_channels=5"),
]
OTHER_LAYOUTS = [
    ("model.layout.window_blocks=3",),
    ("model.layout.pinned_blocks=3", "model.layout.first_block={video: 1, audio: 2}"),
    ("model.layout.anchor=stays",),
    ("model.layout.cross_view=own", "model.layout.pinned_blocks=2"),
]


def preset(*overrides: str) -> RunConfig:
    return load_preset("tiny", overrides)


@pytest.mark.parametrize("overrides", SHAPES)
def test_the_planned_parameters_are_those_of_the_model(overrides: tuple[str, ...]) -> None:
    config = preset(*overrides).model
    model = DualStreamTransformer(config)
    real = model.halves.map(lambda half: sum(p.numel() for p in half.parameters()))
    assert parameter_counts(config) == real


@pytest.mark.parametrize("overrides", [*SHAPES, *OTHER_LAYOUTS])
def test_the_planned_cache_is_what_a_long_stream_fills(overrides: tuple[str, ...]) -> None:
    config = preset("model.layers=1", *overrides).model
    model = DualStreamTransformer(config).requires_grad_(False)
    features = torch.zeros(1, 2, config.text_width)
    text = model.read_text(PerStream(features, features))
    rollout = Rollout(model, text, (2, 3), (1.0,), seeded_noise(0))
    for _ in range(config.layout.window_blocks + 4):
        rollout.next_block()
    assert cache_bytes(config, (2, 3)) == rollout.cache.nbytes()


def test_a_higher_zero_stage_spreads_more_over_the_ranks() -> None:
    optimiser = preset().stages.stage_1.optimiser
    totals = [
        rank_memory(
            10**6,
            optimiser.model_copy(update={"zero_stage": stage}),
            trained=2,
            frozen=1,
            workers=4,
        ).total_mb
        for stage in (1, 2, 3)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)
    # Whole: 2 x (parameters, gradients) and the teacher; a quarter: 2 x 2 moments and the average.
    assert totals[0] == pytest.approx(4 * (2 * 2 + 1 + (2 * 2 + 1) / 4))


def test_every_trained_stage_is_in_the_plan() -> None:
    planned = memory_plan(preset())["per_rank"]
    assert set(planned) == {"teacher", "stage_1", "stage_2", "stage_3"}


def test_a_stage_holds_every_role_that_learns_or_is_frozen() -> None:
    workers = "cluster.distillation_worker.replicas=2"
    planned = memory_plan(preset(workers))
    copy = planned["parameters"]["total"] * 4 / 1e6
    one, two = (planned["per_rank"][stage] for stage in ("stage_1", "stage_2"))
    assert one["parameters_mb"] == one["gradients_mb"] == pytest.approx(2 * copy, abs=0.1)
    assert one["optimiser_mb"] == pytest.approx(4 * copy / 2, abs=0.1)
    assert one["ema_mb"] == two["ema_mb"] == pytest.approx(copy / 2, abs=0.1)
    assert one["frozen_mb"] == pytest.approx(copy, abs=0.1)
    assert two["parameters_mb"] == pytest.approx(copy, abs=0.1)
    assert two["frozen_mb"] == 0
