"""The bytes that a rank is planned to receive in a step are those of its collectives, to a tenth."""

import pytest

from infra.presets import load_preset
from omniforcing_model.seeds import uniform_of
from pipelines.planning.training_costs import GIGA, stage_costs
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import SMALL, write_clips, write_model, write_trajectories
from tests.worlds.wire_bytes import bytes_of_steps

STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
# Eight layers, whose vectors are a small part of them.
LAYERS = (
    *SMALL,
    "model.layers=8",
    "model.video={latent_channels: 4, heads: 4, head_dim: 32}",
    "model.audio={latent_channels: 3, heads: 4, head_dim: 16}",
    "data.seconds=2",
)
STEPS, RATIO = 4, 2


def run_of(stage, ranks, *settings):
    optimiser = (f"steps={STEPS}", f"batch={2 * ranks}", "micro_batch=1", *settings)
    overrides = [
        *LAYERS,
        *(f"stages.{stage}.optimiser.{setting}" for setting in optimiser),
        f"cluster.distillation_worker.replicas={ranks}",
    ]
    if stage in ("stage_1", "stage_3"):
        overrides.append(f"stages.{stage}.critic_ratio={RATIO}")
    return load_preset("tiny", overrides)


def with_even_exits(stage, ranks, *settings):
    """Of the first seed with which samples leave their chain half-way, on average, as planned."""
    for seed in range(100):
        config = run_of(stage, ranks, *settings, f"seed={seed}")
        steps = len(config.sampling.student_sigmas)

        def mean_exit(role, every, seed=seed, steps=steps):
            draws = [
                uniform_of(seed, stage, role, n, "exit") for n in range(every - 1, STEPS, every)
            ]
            return sum(int(draw * steps) for draw in draws) / len(draws)

        if mean_exit("critic", 1) == mean_exit("generator", RATIO) == (steps - 1) / 2:
            return config
    raise AssertionError("no seed is even")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_planned_bytes_on_the_wire_are_those_of_the_collectives(tmp_path, stage, zero_stage, ranks):
    config = with_even_exits(stage, ranks, f"zero_stage={zero_stage}")
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, tmp_path / "data")
    write_model(config, tmp_path / "model")
    given = {"stage": stage, "data": data, "values": config.model_dump(mode="json")}
    of_ranks = run_in_ranks(bytes_of_steps, ranks, tmp_path, given, 1500)
    planned = stage_costs(config, stage)["step_wire_gb"] * GIGA
    for received in of_ranks:
        assert planned == pytest.approx(sum(received) / STEPS, rel=0.1)
