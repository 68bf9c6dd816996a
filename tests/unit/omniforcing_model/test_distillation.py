"""The losses of the stages, in the paper's words."""

from copy import copy

import pytest
import torch
from torch import Tensor

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig
from omniforcing_model.distillation.distribution_matching import (
    DistributionMatching,
    DistributionMatchingRule,
)
from omniforcing_model.distillation.latent_batch import LatentBatch, PromptBatch, TrajectoryBatch
from omniforcing_model.distillation.objective import require_finite
from omniforcing_model.distillation.ode_trajectory import euler_velocities, make_trajectories
from omniforcing_model.distillation.stage_1_bidirectional_dmd import BidirectionalDMD
from omniforcing_model.distillation.stage_2_causal_ode import CausalOdeRegression, draw_states
from omniforcing_model.distillation.stage_3_self_forcing import RolloutRule, SelfForcingDMD
from omniforcing_model.distillation.teacher_pretraining import TeacherPretraining, training_sigmas
from omniforcing_model.errors import DivergenceError
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.training import loss_of

GRID = (1, 1)
COUNTS = PerStream(7, 51)
SIGMAS = (1.0, 0.6)
RULE = DistributionMatchingRule(SIGMAS, (0.3, 0.6, 0.9), PerStream(2.0, 3.0), audio_weight=0.5)


def config() -> ModelConfig:
    model = load_preset("tiny").model
    layout = model.layout.model_copy(update={"sinks": 2})
    return model.model_copy(update={"layers": 1, "layout": layout})


def random_model(seed: int) -> DualStreamTransformer:
    torch.manual_seed(seed)
    model = DualStreamTransformer(config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def clips(rows: int = 2) -> LatentBatch:
    generator = torch.Generator().manual_seed(0)
    model = config()
    latents = PerStream(
        torch.randn(rows, COUNTS.video, model.video.latent_channels, *GRID, generator=generator),
        torch.randn(rows, COUNTS.audio, model.audio.latent_channels, generator=generator),
    )
    text = torch.randn(rows, 4, model.text_width, generator=generator)
    null = torch.zeros_like(text)
    return LatentBatch(latents, PerStream(text, text), PerStream(null, null))


def prompts() -> PromptBatch:
    return PromptBatch(clips().text, clips().null_text, ClipShape(2, COUNTS, GRID), exit_draw=0.7)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(model: DualStreamTransformer) -> float:
    return sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("stage", [BidirectionalDMD(RULE), SelfForcingDMD(RULE, RolloutRule(3, 3))])
def test_a_critic_that_agrees_with_the_teacher_gives_the_generator_no_gradient(
    stage: DistributionMatching,
) -> None:
    rule = DistributionMatchingRule(SIGMAS, RULE.noise_levels, PerStream(1.0, 1.0), 1.0)
    agreeing = copy(stage)
    agreeing.rule = rule
    models = {"generator": random_model(0), "critic": random_model(1), "teacher": random_model(1)}
    loss_of(agreeing, "generator", models, prompts(), dice())
    assert gradients(models["generator"]) < 1e-4


@pytest.mark.parametrize("stage", [BidirectionalDMD(RULE), SelfForcingDMD(RULE, RolloutRule(3, 3))])
def test_the_generators_loss_trains_the_generator_alone_and_the_critics_the_critic(
    stage: DistributionMatching,
) -> None:
    models = {name: random_model(i) for i, name in enumerate(("generator", "critic", "teacher"))}
    loss_of(stage, "generator", models, prompts(), dice())
    assert gradients(models["generator"]) > 0
    assert gradients(models["critic"]) == gradients(models["teacher"]) == 0
    models["generator"].zero_grad()
    loss_of(stage, "critic", models, prompts(), dice())
    assert gradients(models["critic"]) > 0
    assert gradients(models["generator"]) == gradients(models["teacher"]) == 0


def test_self_forcing_trains_the_sinks_and_the_bidirectional_stage_leaves_them() -> None:
    models = {name: random_model(i) for i, name in enumerate(("generator", "critic", "teacher"))}
    audio = models["generator"].audio
    assert audio is not None
    loss_of(BidirectionalDMD(RULE), "generator", models, prompts(), dice())
    assert audio.sinks.tokens.grad is None
    loss_of(SelfForcingDMD(RULE, RolloutRule(3, 3)), "generator", models, prompts(), dice())
    assert audio.sinks.tokens.grad is not None


def test_the_audio_weight_weighs_the_audio_part() -> None:
    model = {"generator": random_model(0)}
    parts = loss_of(TeacherPretraining(0.0, audio_weight=0.25), "generator", model, clips(), dice())
    assert parts["loss"].item() == pytest.approx((parts["video"] + 0.25 * parts["audio"]).item())


def test_a_dropped_caption_is_the_unconditional_prompt() -> None:
    model = {"generator": random_model(0)}
    batch = clips()
    dropped = loss_of(TeacherPretraining(0.999999, 1.0), "generator", model, batch, dice())
    null = batch._replace(text=batch.null_text)
    expected = loss_of(TeacherPretraining(0.0, 1.0), "generator", model, null, dice())
    assert dropped["loss"].item() == pytest.approx(expected["loss"].item())


def test_one_training_sigma_falls_in_every_stratum() -> None:
    sigmas = training_sigmas(8, dice()).sort().values
    uniform = sigmas / (2 - sigmas)
    assert ((uniform * 8).floor() == torch.arange(8)).all()


def make_states(model: DualStreamTransformer, batch: LatentBatch) -> PerStream[Tensor]:
    shape = ClipShape(len(batch.latents.video), COUNTS, GRID)
    return make_trajectories(model, batch.text, shape, SIGMAS, seeded_noise([3, 4]))


def test_a_trajectory_runs_from_its_seeds_noise_along_the_models_velocity() -> None:
    states = make_states(random_model(0), clips())
    noise = seeded_noise([3, 4])("video", 0, 0, tuple(states.video[:, 0].shape))
    assert torch.equal(states.video[:, 0], noise)
    velocities = euler_velocities(states.video, torch.tensor([*SIGMAS, 0.0]))
    rebuilt = states.video[:, 0] - 0.4 * velocities[:, 0] - 0.6 * velocities[:, 1]
    assert torch.allclose(rebuilt, states.video[:, -1], atol=1e-5)


def test_history_is_clean_and_one_block_at_least_is_noisy() -> None:
    states = draw_states(200, 4, clean=2, generator=dice())
    is_clean = states == 2
    assert not is_clean.all(dim=1).any()
    assert (is_clean.int().diff(dim=1) <= 0).all()
    assert is_clean.any()


class Flow:
    """Answers with a trajectory's own velocity, or one that is off by so much in each stream."""

    def __init__(self, batch: TrajectoryBatch, off: PerStream[float]) -> None:
        self.config, self.dtype = config(), torch.float32
        self._sigmas, self._off = batch.sigmas, off
        self._velocities = batch.states.map(lambda states: euler_velocities(states, batch.sigmas))

    def read_text(self, text: PerStream[Tensor]) -> PerStream[Tensor]:
        return text

    def __call__(
        self, noisy: PerStream[Tensor], sigma: Tensor, text: object, view: object
    ) -> PerStream[Tensor]:
        state_of_block = (sigma[..., None] == self._sigmas).int().argmax(dim=-1)
        blocks = BlockLayout(self.config.layout).block_of_latent(COUNTS).map(torch.tensor)
        return noisy.map(
            lambda x, velocities, of_latent, off: self._at(
                velocities, state_of_block[:, of_latent], off
            ).reshape(x.shape),
            self._velocities,
            blocks,
            self._off,
        )

    def _at(self, velocities: Tensor, state: Tensor, off: float) -> Tensor:
        is_clean = state == len(self._sigmas) - 1
        rows, latents = torch.arange(len(state))[:, None], torch.arange(state.shape[1])
        picked = velocities[rows, state.clamp(max=velocities.shape[1] - 1), latents] + off
        picked[is_clean] = 1e3  # whatever it says of what is clean already, nobody learns from it
        return picked


@pytest.mark.parametrize(
    ("off", "expected"),
    [((0.0, 0.0), 0.0), ((0.5, 0.0), 0.25), ((0.0, 0.5), 2 * 0.25), ((0.5, 0.5), 3 * 0.25)],
)
def test_regression_is_zero_on_the_trajectorys_own_velocity_and_grows_with_the_distance(
    off: tuple[float, float], expected: float
) -> None:
    batch = clips()
    states = make_states(random_model(0), batch)
    trajectories = TrajectoryBatch(states, torch.tensor([*SIGMAS, 0.0]), batch.text)
    flow = Flow(trajectories, PerStream(*off))
    for seed in range(5):
        loss = loss_of(
            CausalOdeRegression(2.0, "velocity"),
            "generator",
            {"generator": flow},
            trajectories,
            dice(seed),
        )
        assert loss["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_the_clean_end_is_regressed_from_every_state_whatever_lies_between() -> None:
    """With states that stand on no straight line, as those picked from many guided steps."""
    batch = clips()
    states = batch.latents.map(lambda x: torch.randn(2, 3, *x.shape[1:], generator=dice(1)))
    sigmas = torch.tensor([*SIGMAS, 0.0])
    trajectories = TrajectoryBatch(states, sigmas, batch.text)
    flow = Flow(trajectories, PerStream(0.0, 0.0))
    flow._velocities = states.map(
        lambda x: (x[:, :-1] - x[:, -1:]) / sigmas[:-1].reshape(1, -1, *[1] * (x.ndim - 2))
    )
    secants = 0.0
    for seed in range(5):
        stages = {target: CausalOdeRegression(1.0, target) for target in ("clean", "velocity")}
        losses = {
            target: loss_of(stage, "generator", {"generator": flow}, trajectories, dice(seed))
            for target, stage in stages.items()
        }
        assert losses["clean"]["loss"].item() == pytest.approx(0.0, abs=1e-9)
        secants += losses["velocity"]["loss"].item()
    assert secants > 0.1


def test_the_error_of_the_clean_end_is_that_of_the_velocity_times_sigma() -> None:
    batch = clips()
    states = batch.latents.map(lambda x: torch.stack([x + 0.6 * 2.0, x], dim=1))
    trajectories = TrajectoryBatch(states, torch.tensor([0.6, 0.0]), batch.text)
    flow = Flow(trajectories, PerStream(0.5, 0.0))
    stage = CausalOdeRegression(1.0, "clean")
    loss = loss_of(stage, "generator", {"generator": flow}, trajectories, dice(3))
    assert loss["video"].item() == pytest.approx((0.6 * 0.5) ** 2, rel=1e-4)
    assert loss["audio"].item() == pytest.approx(0.0, abs=1e-9)


def test_a_student_learns_a_trajectorys_velocity() -> None:
    batch = clips()
    trajectories = TrajectoryBatch(
        make_states(random_model(0), batch), torch.tensor([*SIGMAS, 0.0]), batch.text
    )
    student = {"generator": random_model(5)}
    stage = CausalOdeRegression(1.0, "velocity")
    optimiser = torch.optim.Adam(student["generator"].parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = loss_of(stage, "generator", student, trajectories, dice(step))["loss"]
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(DivergenceError, match="critic loss at step 7"):
        require_finite(torch.tensor(float("nan")), "critic loss at step 7")
