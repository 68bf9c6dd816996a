"""What the passes of a training step hold besides weights, by phase, counted without data.

The code that trains is run on fake tensors at two depths: layers are alike, so that the difference
is what one more layer holds.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from actors.training.deepspeed_engines import DTYPES
from omniforcing_model.config import ModelConfig
from omniforcing_model.distillation.trained_transformer import SharedPasses, TrainedTransformer
from omniforcing_model.macro_block import BlockLayout, MacroBlock
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import (
    ClipShape,
    Guidance,
    few_step_sample,
    ode_trajectory,
    predict_clean,
)
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.streaming.rollout import BlockPass, Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.planning.live_tensors import peak_bytes

# The first layer's input is one tensor a stream, that of later ones three.
DEPTHS = (2, 3)
GUIDED = PerStream(GuidanceScales(2.0), GuidanceScales(2.0))


class PassShape(NamedTuple):
    """What decides the size of a pass, of a model whose depth does not matter.

    `latents`: of a clip. `streamed`: of the longest stream of a sample, whose last latents are
    scored. `grid`: latent (height, width). `batch`: clips of a micro-batch. `is_guided`: whether a
    teacher predicts here, with another prompt besides.
    """

    model: ModelConfig
    latents: PerStream[int]
    streamed: PerStream[int]
    grid: tuple[int, int]
    batch: int
    text_tokens: int
    precision: str
    recomputes: bool
    sigmas: tuple[float, ...]
    is_guided: bool


class Subject(NamedTuple):
    """A role whose weights have no memory, and how objectives call it."""

    network: DualStreamTransformer
    passes: SharedPasses
    shape: PassShape


def whole_clip_with_gradients(shape: PassShape) -> int:
    """Bytes of a pass over a clip in which all sees all, and of its backward pass."""
    return _at_depth(shape, _whole_clip_with_gradients)


def causal_with_gradients(shape: PassShape) -> int:
    """Bytes of a pass under the four-way mask, and of its backward pass."""
    return _at_depth(shape, _causal_with_gradients)


def scored(shape: PassShape) -> int:
    """Bytes of the scores' predictions, without gradients."""
    return _at_depth(shape, _scored)


def scored_with_gradients(shape: PassShape) -> int:
    """Bytes of a pass with gradients whose result the scores predict before they are taken."""
    return _at_depth(shape, _scored_with_gradients)


def sampled(shape: PassShape) -> int:
    """Bytes of a step of a whole clip's ODE, without gradients, by a model as it is loaded."""
    return _at_depth(shape, _sampled)


def few_steps(shape: PassShape) -> int:
    """Bytes of sampling a clip in a few bidirectional steps, without gradients."""
    return _at_depth(shape, _few_steps)


def streamed(shape: PassShape) -> int:
    """Bytes of streaming a clip without gradients, its cache among them."""
    return _at_depth(shape, _streamed)


def streamed_with_gradients(shape: PassShape) -> int:
    """Bytes of each block's last pass again, with gradients that are taken at once."""
    return _at_depth(shape, _streamed_with_gradients)


def _at_depth(shape: PassShape, run: Callable[[Subject], None]) -> int:
    """Bytes at the model's own depth."""
    any_depth = shape._replace(model=shape.model.model_copy(update={"layers": 1}))
    few, more = (_counted(any_depth, depth, run) for depth in DEPTHS)
    return few + (shape.model.layers - DEPTHS[0]) * (more - few)


@lru_cache(maxsize=64)
def _counted(shape: PassShape, depth: int, run: Callable[[Subject], None]) -> int:
    config = shape.model.model_copy(update={"layers": depth})
    return peak_bytes(run, lambda: _subject(shape._replace(model=config)))


def _subject(shape: PassShape) -> Subject:
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[shape.precision])  # parameters without data change theirs not
    try:
        network = DualStreamTransformer(shape.model)
    finally:
        torch.set_default_dtype(before)
    for parameter in network.parameters():
        # A gradient leaves at once for what collects them, which is counted elsewhere.
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    module = TrainedTransformer(network, shape.recomputes)
    return Subject(network, SharedPasses(network, module), shape)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _latents(shape: PassShape, counts: PerStream[int] | None = None) -> PerStream[Tensor]:
    """Of clips, or `counts` of them, in float32."""
    model, counts = shape.model, counts or shape.latents
    video = (shape.batch, counts.video, model.video.latent_channels, *shape.grid)
    return PerStream(
        torch.zeros(video), torch.zeros(shape.batch, counts.audio, model.audio.latent_channels)
    )


def _text(shape: PassShape) -> PerStream[Tensor]:
    """Text features, in float32."""
    widths = PerStream(shape.model.text_width, shape.model.text_width)
    if shape.model.modulated_text:
        widths = PerStream(shape.model.video.width, shape.model.audio.width)
    return widths.map(lambda width: torch.zeros(shape.batch, shape.text_tokens, width))


def _noise(stream: str, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
    del stream, block, step
    return torch.zeros(shape)


def _take_gradients(predicted: PerStream[Tensor]) -> None:
    """Of a loss like those of the stages: a mean of squares of each stream."""
    errors = predicted.map(lambda x: (x - torch.zeros_like(x)).square().mean())
    (errors.video + errors.audio).backward()


def _whole_clip_with_gradients(subject: Subject) -> None:
    shape, passes = subject.shape, subject.passes
    clean, text = _latents(shape), _text(shape)
    sigma = torch.zeros(shape.batch)
    _take_gradients(predict_clean(passes, clean, sigma, passes.read_text(text)))


def _causal_with_gradients(subject: Subject) -> None:
    shape, passes = subject.shape, subject.passes
    states = [_latents(shape) for _ in range(len(shape.sigmas) + 1)]
    noisy = states[0].map(lambda x: (0 * x).to(passes.dtype))
    sigma = torch.zeros(shape.batch, BlockLayout(shape.model.layout).blocks_of(shape.latents))
    with unset_fake_temporarily():  # it looks at the numbers of blocks
        view = CausalView(shape.model, shape.latents, shape.grid)
    _take_gradients(passes(noisy, sigma, passes.read_text(_text(shape)), view))


def _scored_with_gradients(subject: Subject) -> None:
    shape, passes = subject.shape, subject.passes
    noisy, text = _latents(shape), _text(shape)
    clean = predict_clean(passes, noisy, torch.zeros(shape.batch), passes.read_text(text))
    _scored(subject)
    _take_gradients(clean)


@torch.no_grad()
def _scored(subject: Subject) -> None:
    """A guided prediction holds more than the critic's beside it."""
    shape, passes = subject.shape, subject.passes
    noisy, text = _latents(shape), _text(shape)
    guidance = None
    if shape.is_guided:
        guidance = Guidance(passes.read_text(_text(shape)), GUIDED)
    sigma = torch.zeros(shape.batch)
    predict_clean(passes, noisy, sigma, passes.read_text(text), guidance)


@torch.no_grad()
def _sampled(subject: Subject) -> None:
    shape, network = subject.shape, subject.network
    prompt, negative = (_text(shape).map(lambda x: x.to(network.dtype)) for _ in range(2))
    guidance = None
    if shape.is_guided:  # by one prompt besides: further passes hold no more
        guidance = Guidance(network.read_text(negative), GUIDED)
    text = network.read_text(prompt)
    ode_trajectory(network, text, _latents(shape), (1.0, 0.0), guidance)


@torch.no_grad()
def _few_steps(subject: Subject) -> None:
    shape, passes = subject.shape, subject.passes
    clips = ClipShape(shape.batch, shape.latents, shape.grid)
    text = passes.read_text(_text(shape))
    few_step_sample(passes, text, clips, shape.sigmas[:2], _noise)


def _rollout(subject: Subject, last: int) -> Rollout:
    """One that is about to stream the `last` blocks of its sample, whose passes see most.

    Of one step a block: more of them hold no more.
    """
    shape, passes = subject.shape, subject.passes
    text = passes.read_text(_text(shape))
    rollout = Rollout(passes, text, shape.grid, shape.sigmas[:1], _noise, shape.batch)
    rollout.block_index = max(0, _blocks(shape) - last)
    return rollout


@torch.no_grad()
def _streamed(subject: Subject) -> None:
    shape = subject.shape
    # A clip, whose lengths alone are read, and what each block's last pass began with and gave.
    held = (_latents(shape), _latents(shape, shape.streamed), _latents(shape, shape.streamed))
    _rollout(subject, last=1).next_block()
    del held


def _streamed_with_gradients(subject: Subject) -> None:
    shape = subject.shape
    clip, gradient = _latents(shape), _latents(shape)
    noisy, clean, sample = (_latents(shape, shape.streamed) for _ in range(3))
    rollout, layout = _rollout(subject, last=2), BlockLayout(shape.model.layout)
    # Between them the first of the two is committed, without gradients.
    for index in range(rollout.block_index, _blocks(shape)):
        block = layout.block(index)
        last_pass = BlockPass(*(_of_block(latents, block) for latents in (noisy, clean)))
        _take_gradients(rollout.redo_block(last_pass, 0))
    del clip, gradient, sample


def _of_block(latents: PerStream[Tensor], block: MacroBlock) -> PerStream[Tensor]:
    """Those of one block, of a sample's."""
    return latents.map(
        lambda x, first, count: x[:, first : first + count], block.first, block.count
    )


def _blocks(shape: PassShape) -> int:
    return BlockLayout(shape.model.layout).blocks_of(shape.streamed)
