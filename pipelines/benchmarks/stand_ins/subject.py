"""The model that is measured: a preset's shape with random weights, on a device, in a dtype."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from actors.streaming.machine_kernels import measure_and_take_kernels
from infra.config import RunConfig
from infra.errors import ConfigError
from infra.machine import GIB
from omniforcing_model.config import ModelConfig
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.float8 import use_float8
from omniforcing_model.transformer.text_context import TextContext
from pipelines.benchmarks.machine.device import DTYPES, DtypeName, free_memory_bytes

SEED = 0


class UnreadSubject(NamedTuple):
    """A model and what it is to stream, before it has computed anything."""

    model: DualStreamTransformer
    features: PerStream[Tensor]
    grid: tuple[int, int]
    sigmas: tuple[float, ...]

    def with_text(self, text: TextContext) -> "Subject":
        """With text that the model has read."""
        return Subject(self.model, self.features, text, self.grid, self.sigmas)


class Subject(NamedTuple):
    """A model and what it streams: text, latent grid and noise levels."""

    model: DualStreamTransformer
    features: PerStream[Tensor]
    text: TextContext
    grid: tuple[int, int]
    sigmas: tuple[float, ...]

    def rollout(self) -> Rollout:
        """A new stream; the same for every subject of one shape, but for the dtype."""
        return Rollout(self.model, self.text, self.grid, self.sigmas, seeded_noise(SEED))


def random_subject(config: RunConfig, name: DtypeName, device: torch.device) -> Subject:
    """The model of the run's shape; weights do not depend on the dtype but for rounding."""
    unread = unread_subject(config, name, device)
    with torch.no_grad():
        return unread.with_text(unread.model.read_text(unread.features))


@torch.no_grad()
def unread_subject(config: RunConfig, name: DtypeName, device: torch.device) -> UnreadSubject:
    """The same before its text is read. From here on the process has the run's kernels."""
    measure_and_take_kernels(config.sampling.student_kernels, device.type)
    torch.manual_seed(SEED)
    model = random_model(config.model, DTYPES[name], device)
    if name == "float8":
        model = use_float8(model)
    return UnreadSubject(
        model,
        random_features(config, model),
        latent_grid(config.data.height, config.data.width, config.model.spatial_stride),
        config.sampling.student_sigmas,
    )


def random_features(config: RunConfig, model: DualStreamTransformer) -> PerStream[Tensor]:
    """Text features of a prompt, (1, text tokens, width) per stream, drawn anew."""
    widths = PerStream(config.model.text_width, config.model.text_width)
    if config.model.modulated_text:
        widths = PerStream(config.model.video.width, config.model.audio.width)
    tokens = config.codec.text_tokens
    return widths.map(lambda width: torch.randn(1, tokens, width).to(model.device, model.dtype))


def random_model(
    config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> DualStreamTransformer:
    """A model whose activations keep their size, as trained ones do; a fresh one answers zero."""
    with torch.device("meta"):
        model = DualStreamTransformer(config).to(dtype)
    need, free = parameter_bytes(model), free_memory_bytes(device)
    if need > free:
        raise ConfigError(
            f"expected {need / GIB:.1f} GiB of memory for the weights, got {free / GIB:.1f} on"
            f" {device}; take --device meta for counts alone, or fewer layers (--set model.layers)"
        )
    model = model.to_empty(device=device).eval().requires_grad_(False)
    fill_randomly(model)
    return model


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


@torch.no_grad()
def fill_randomly(model: nn.Module) -> None:
    """Weights that keep the size of what they multiply, norms of one, biases of zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif ".norm_" in name:
            parameter.fill_(1)
        else:
            values = torch.randn(parameter.shape, device=parameter.device)
            parameter.copy_(values / parameter.shape[-1] ** 0.5)
