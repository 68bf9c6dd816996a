"""Small random models as checkpoints of every spelling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from omniforcing_model.config import ModelConfig
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.tensor_names import tensor_table
from tests.worlds.layouts import layout_of

HEADS = 32  # files without a header are read as LTX-2's, which has 32


def small_config(architecture: str = "ltx-2.0", sinks: int = 0, **rotary: Any) -> ModelConfig:
    """A model of 1 layer whose phases are those of a loaded LTX-2."""
    values = {
        "architecture": architecture,
        "layers": 1,
        "video": {"latent_channels": 3, "heads": HEADS, "head_dim": 4},
        "audio": {"latent_channels": 5, "heads": HEADS, "head_dim": 2},
        "text_width": 128 if architecture == "ltx-2.3" else 7,
        "spatial_stride": 32,
        "timestep_scale": 1000,
        "gate_timestep_scale": 1000,
        "rotary": {
            "pairs": "split",
            "frequencies": "float64",
            "phases": "float32",
            "theta": 10_000,
            "max_seconds": 20,
            "max_height": 2048,
            "max_width": 2048,
            **rotary,
        },
        "layout": layout_of("paper", sinks=sinks, window_blocks=4).model_dump(),
    }
    return ModelConfig.model_validate(values)


def random_model(config: ModelConfig) -> DualStreamTransformer:
    torch.manual_seed(1)
    model = DualStreamTransformer(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def ltx_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Random tensors of `config` by LTX-2's own names."""
    generator = torch.Generator().manual_seed(2)
    return {
        entry.ltx: torch.randn(entry.shape, generator=generator)
        for entry in tensor_table(config)
        if entry.diffusers is not None
    }


@pytest.fixture
def config() -> ModelConfig:
    return small_config()


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Write LTX-2's tensors of a config under `prefix`, without a header, with `others`."""

    def write(
        config: ModelConfig, prefix: str = "", others: dict[str, Tensor] | None = None
    ) -> Path:
        tensors = {prefix + name: tensor for name, tensor in ltx_tensors(config).items()}
        path = tmp_path / "generator.safetensors"
        save_file(tensors | (others or {}), path)
        return path

    return write
