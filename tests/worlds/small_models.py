"""The smallest models that have every part."""

import torch

from omniforcing_model.config import ModelConfig
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from tests.worlds.layouts import layout_of


def small_model_config(architecture="ltx-2.0", layers=1, sinks=2, window_blocks=2):
    """Two heads in both streams; `text_width` fits either architecture."""
    return ModelConfig.model_validate(
        {
            "architecture": architecture,
            "layers": layers,
            "video": {"latent_channels": 3, "heads": 2, "head_dim": 8},
            "audio": {"latent_channels": 5, "heads": 2, "head_dim": 4},
            "text_width": 16 if architecture == "ltx-2.3" else 6,
            "spatial_stride": 32,
            "timestep_scale": 1000,
            "gate_timestep_scale": 1,
            "rotary": {
                "pairs": "split",
                "frequencies": "float64",
                "theta": 10_000,
                "max_seconds": 20,
                "max_height": 2048,
                "max_width": 2048,
            },
            "layout": layout_of(sinks=sinks, window_blocks=window_blocks),
        }
    )


def random_small_model(config, **how):
    """A model whose every parameter matters, in evaluation mode."""
    torch.manual_seed(0)
    model = DualStreamTransformer(config, **how)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
