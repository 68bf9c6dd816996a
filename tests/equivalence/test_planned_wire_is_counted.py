"""The bytes that a rank is planned to receive in a step are those of its collectives, to 10 %."""

import pytest

from infra.presets import load_preset
from omniforcing_model.seeds import uniform_of
from pipelines.planning.training_costs import GIGA, stage_costs
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import SMALL, write_clips, write_model, write_trajectories
from tests.worlds.wire_bytes import bytes_of_stages

STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
ZERO_STAGES = (1, 2, 3)
STEPS = 2  # the critic has its turn in both, its generator in the second
SIGMAS = 3  # steps of the student's chain
RUN = (
    *SMALL,
    "model.layers=6",
    "model.video={latent_channels: 4, heads: 4, head_dim: 32}",
    "model.audio={latent_channels: 3, heads: 4, head_dim: 16}",
    "sampling.student_sigmas=[1.0, 0.8, 0.5]",
    "data.seconds=2",
    "stages.stage_1.critic_ratio=2",
    "stages.stage_3.critic_ratio=2",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def run_of(stage, ranks, *settings):
    optimiser = (f"steps={STEPS}", f"batch={2 * ranks}", "micro_batch=1", *settings)
    own = (f"stages.{stage}.optimiser.{setting}" for setting in optimiser)
    return load_preset("tiny", [*RUN, *own, f"cluster.distillation_worker.replicas={ranks}"])


def even_seed(stage):
    """The first with which samples leave their chain half-way, on average, as is planned."""
    turns = {"critic": (0, 1), "generator": (1,)}

    def is_even(seed, role, steps):
        draws = [uniform_of(seed, stage, role, step, "exit") for step in steps]
        return sum(int(draw * SIGMAS) for draw in draws) == len(draws) * (SIGMAS - 1) / 2

    seeds = range(1000)
    return next(s for s in seeds if all(is_even(s, role, at) for role, at in turns.items()))


@pytest.fixture(scope="module", params=[2, 4])
def counted(request, tmp_path_factory):
    """How many ranks there are, and what each received in each step, by stage and ZeRO stage."""
    ranks, folder = request.param, tmp_path_factory.mktemp("wire")
    plain = run_of("teacher", ranks)
    rows = {
        stage: (write_trajectories if stage == "stage_2" else write_clips)(plain, folder / stage)
        for stage in STAGES
    }
    model = write_model(plain, folder / "model")
    runs = {
        f"{stage}-{zero_stage}": {
            "stage": stage,
            "values": configured(stage, zero_stage, ranks).model_dump(mode="json"),
            "data": rows[stage],
            "model": model,
        }
        for stage in STAGES
        for zero_stage in ZERO_STAGES
    }
    return ranks, run_in_ranks(bytes_of_stages, ranks, folder, {"runs": runs}, 2000)


def configured(stage, zero_stage, ranks):
    return run_of(stage, ranks, f"zero_stage={zero_stage}", f"seed={even_seed(stage)}")


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_planned_bytes_on_the_wire_are_those_of_the_collectives(counted, stage, zero_stage):
    ranks, of_ranks = counted
    planned = stage_costs(configured(stage, zero_stage, ranks), stage)["step_wire_gb"] * GIGA
    for received in of_ranks:
        steps = received[f"{stage}-{zero_stage}"]
        assert planned == pytest.approx(sum(steps) / STEPS, rel=0.1)
