"""The stages' losses as plain PyTorch: whole models, one backward pass, every graph kept.

What training computes with engines, sharded weights and gradients taken block by block must come to
the same.
"""

import torch

from actors.training.stage_batches import StageBatches
from actors.training.stage_objectives import stage_objective
from infra.stages import GENERATOR, STAGES
from omniforcing_model.distillation.ema import Ema
from omniforcing_model.flow_matching import add_noise, to_velocity
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import generator_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance, predict_clean
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.weights.checkpoint_files import load_model


def plain_gradients(config, stage, data, start):
    """Gradients of every role of the stage's first step, from models at `start`, by role and name.

    The process group must be of one rank: it takes all micro-batches.
    """
    objective = stage_objective(config, stage)
    roles = [role.name for role in config.stages.trained_stage(stage).roles]
    models = {role: load_model(start) for role in (*roles, *STAGES[stage].frozen)}
    batches = StageBatches(config, stage, data, "cpu")
    gradients = {}
    for role in roles:
        model = models[role]
        learning(model, objective, role)
        for batch, generator in batches.of_step(role, 0):
            loss = _loss(objective, stage, role, models, batch, generator)
            (loss / len(batches)).backward()
        gradients[role] = {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }
    return gradients


class PlainLoop:
    """Steps of a stage in which every role has its turn: AdamW, clipping and the average."""

    def __init__(self, config, stage, batches, start):
        """All models start from the folder `start`."""
        settings = config.stages.trained_stage(stage)
        self._stage, self._batches, self._clip = stage, batches, settings.optimiser.clip_norm
        self._objective = stage_objective(config, stage)
        self._roles = [role.name for role in settings.roles]
        every = (*self._roles, *STAGES[stage].frozen)
        self._models = {role: load_model(start).requires_grad_(False) for role in every}
        self._optimisers = {}
        for role in settings.roles:
            self._optimisers[role.name] = torch.optim.AdamW(
                learning(self._models[role.name], self._objective, role.name),
                lr=role.learning_rate,
                betas=settings.optimiser.betas,
                weight_decay=settings.optimiser.weight_decay,
            )
        weights = dict(self._models[GENERATOR].named_parameters())
        self._average = Ema(weights, settings.optimiser.ema_decay)
        self.steps_done = 0

    def step(self):
        for role in self._roles:
            optimiser, model = self._optimisers[role], self._models[role]
            for batch, generator in self._batches.of_step(role, self.steps_done):
                loss = _loss(self._objective, self._stage, role, self._models, batch, generator)
                (loss / len(self._batches)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self._clip)
            optimiser.step()
            optimiser.zero_grad()
        self._average.update(dict(self._models[GENERATOR].named_parameters()))
        self.steps_done += 1


def learning(model, objective, role):
    """The parameters that the role learns, and no other needs gradients."""
    for name, parameter in model.named_parameters():
        sinks = ".sinks." in f".{name}"
        parameter.requires_grad_(not sinks or (objective.uses_sinks and role == GENERATOR))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _loss(objective, stage, role, models, batch, generator):
    if stage not in ("stage_1", "stage_3"):
        (term,) = objective.losses(role, models, batch, generator)
        return term["loss"]
    samples = _streamed if stage == "stage_3" else objective.generate
    if role == "critic":
        with torch.no_grad():
            clean = _sampled(objective, samples, models, batch, generator)
        sigma, noise, noisy = _noised(objective, clean, generator)
        critic = models["critic"]
        fake = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
        velocity = noisy.map(to_velocity, fake, PerStream(sigma, sigma))
        errors = velocity.map(lambda v, eps, x: ((v - (eps - x)) ** 2).mean(), noise, clean)
    else:
        clean = _sampled(objective, samples, models, batch, generator)
        targets = _targets(objective, models, clean.map(torch.Tensor.detach), batch, generator)
        errors = clean.map(lambda x, goal: ((x - goal) ** 2).mean() / 2, targets)
    return errors.video + objective.rule.audio_weight * errors.audio


def _sampled(objective, samples, models, batch, generator):
    if samples is _streamed:
        return _streamed(objective, models[GENERATOR], batch, generator)
    return samples(models[GENERATOR], batch, generator)


def _streamed(objective, model, batch, generator):
    """A whole clip with the graph of every block's last pass."""
    rollout = Rollout(
        model,
        model.read_text(batch.text),
        batch.shape.grid,
        objective.rule.student_sigmas,
        generator_noise(generator),
        batch=batch.shape.batch,
    )
    blocks = BlockLayout(model.config.layout).blocks_of(batch.shape.latents)
    return roll_out(rollout, blocks, objective.exit_step(batch))


def _noised(objective, clean, generator):
    levels = torch.tensor(objective.rule.noise_levels)
    rows = len(clean.video)
    sigma = levels[torch.randint(len(levels), (rows,), generator=generator)]
    noise = clean.map(lambda x: torch.randn(x.shape, generator=generator))
    return sigma, noise, clean.map(add_noise, noise, PerStream(sigma, sigma))


@torch.no_grad()
def _targets(objective, models, clean, batch, generator):
    sigma, _, noisy = _noised(objective, clean, generator)
    critic, teacher = models["critic"], models["teacher"]
    fake = predict_clean(critic, noisy, sigma, critic.read_text(batch.text))
    scales = objective.rule.guidance.map(GuidanceScales)
    guidance = Guidance(teacher.read_text(batch.null_text), scales)
    real = predict_clean(teacher, noisy, sigma, teacher.read_text(batch.text), guidance)

    def target(x, of_fake, of_real):
        distance = (x - of_real).abs().flatten(1).mean(dim=1)
        scale = distance.reshape(-1, *[1] * (x.ndim - 1)) + 1e-6
        return x - (of_fake - of_real) / scale

    return clean.map(target, fake, real)
