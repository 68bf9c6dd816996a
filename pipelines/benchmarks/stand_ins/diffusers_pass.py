"""One forward pass of diffusers' LTX-2 class on a block's tokens: bidirectional, no history."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.weights.ltx2_config import diffusers_config_of
from pipelines.benchmarks.stand_ins.subject import Subject, fill_randomly


def diffusers_is_installed() -> bool:
    """Whether the optional library is there."""
    return importlib.util.find_spec("diffusers") is not None


@torch.no_grad()
def diffusers_pass(subject: Subject) -> Callable[[], object]:
    """A function that runs one pass over the tokens of block 1, on random weights.

    The model has the shape, dtype and device of the subject's. Its text is projected and its
    modulation and rotations are computed in every pass, as in its own pipeline.
    """
    config, device, dtype = subject.model.config, subject.model.device, subject.model.dtype
    model = _reference(config, dtype, device)
    count = BlockLayout(config.layout).block(1).count
    height, width = subject.grid
    inputs = {
        "hidden_states": torch.randn(1, count.video * height * width, config.video.latent_channels),
        "audio_hidden_states": torch.randn(1, count.audio, config.audio.latent_channels),
    }
    inputs = {name: value.to(device, dtype) for name, value in inputs.items()}
    sigma = torch.full((1,), 0.5 * config.timestep_scale, device=device)

    @torch.no_grad()
    def run() -> object:
        return model(
            **inputs,
            encoder_hidden_states=subject.features.video,
            audio_encoder_hidden_states=subject.features.audio,
            timestep=sigma,
            audio_timestep=sigma,
            num_frames=count.video,
            height=height,
            width=width,
            fps=24.0,
            audio_num_frames=count.audio,
            return_dict=False,
        )

    return run


def _reference(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Any:
    import diffusers  # optional, and slow to import  # noqa: PLC0415

    with torch.device("meta"):
        model = diffusers.LTX2VideoTransformer3DModel.from_config(diffusers_config_of(config))
    assert not list(model.buffers()), "a buffer would come off the meta device without its values"
    # diffusers' own `to` warns about layers it would keep in float32; LTX-2 has none.
    model = nn.Module.to(model, dtype).to_empty(device=device).eval().requires_grad_(False)
    fill_randomly(model)
    return model
