"""Random small LTX-2 models of diffusers, and the same weights in ours."""

import torch
from torch import Tensor, nn

from omniforcing_model.config import LayoutConfig, ModelConfig, RotaryConfig, StreamConfig
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.tensor_names import tensor_table
from tests.worlds.layouts import layout_of

# Rotary profile, and the architecture: LTX-2.0's own, the released OmniForcing weights', LTX-2.3's.
PROFILES: dict[str, dict[str, object]] = {
    "ltx-2.0": {"pairs": "split", "frequencies": "float64", "gate": 1000},
    "omniforcing": {"pairs": "interleaved", "frequencies": "float32", "gate": 1},
    "ltx-2.3": {"pairs": "split", "frequencies": "float64", "gate": 1000},
}
TEXT_TOKENS = (3, 11)


def drawn(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def drawn_config(
    profile: str, generator: torch.Generator, layout: LayoutConfig | None = None
) -> ModelConfig:
    """A small model: heads, widths, layers and channels are drawn."""
    rotary = PROFILES[profile]
    heads = drawn(1, 4, generator)
    video = StreamConfig(
        latent_channels=drawn(3, 9, generator),
        heads=heads,
        head_dim=2 * drawn(3, 16, generator),
    )
    audio = StreamConfig(
        latent_channels=drawn(3, 9, generator),
        heads=heads,
        head_dim=2 * drawn(2, 8, generator),
    )
    modern = profile == "ltx-2.3"
    return ModelConfig(
        architecture="ltx-2.3" if modern else "ltx-2.0",
        layers=drawn(1, 4, generator),
        video=video,
        audio=audio,
        text_width=video.width if modern else drawn(5, 40, generator),
        spatial_stride=32,
        timestep_scale=1000,
        gate_timestep_scale=float(str(rotary["gate"])),
        rotary=RotaryConfig.model_validate(
            {
                "pairs": rotary["pairs"],
                "frequencies": rotary["frequencies"],
                "phases": "float32",
                "theta": 10000,
                "max_seconds": 20,
                "max_height": 2048,
                "max_width": 2048,
            }
        ),
        layout=layout or layout_of("paper", sinks=0, window_blocks=4),
    )


def reference_of(config: ModelConfig) -> nn.Module:
    """Diffusers' class for a model like ours."""
    from diffusers import LTX2VideoTransformer3DModel

    video, audio, modern = config.video, config.audio, config.architecture == "ltx-2.3"
    model: nn.Module = LTX2VideoTransformer3DModel(
        in_channels=video.latent_channels,
        out_channels=video.latent_channels,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=video.heads,
        attention_head_dim=video.head_dim,
        cross_attention_dim=video.width,
        audio_in_channels=audio.latent_channels,
        audio_out_channels=audio.latent_channels,
        audio_num_attention_heads=audio.heads,
        audio_attention_head_dim=audio.head_dim,
        audio_cross_attention_dim=audio.width,
        num_layers=config.layers,
        qk_norm="rms_norm_across_heads",
        caption_channels=config.text_width,
        rope_double_precision=config.rotary.frequencies == "float64",
        rope_type=config.rotary.pairs,
        cross_attn_timestep_scale_multiplier=config.gate_timestep_scale,
        gated_attn=modern,
        cross_attn_mod=modern,
        audio_gated_attn=modern,
        audio_cross_attn_mod=modern,
        use_prompt_embeddings=not modern,
        perturbed_attn=modern,
    )
    return model.eval()


@torch.no_grad()
def twins(
    config: ModelConfig, generator: torch.Generator
) -> tuple[DualStreamTransformer, nn.Module]:
    """Our model and diffusers' with the same random weights: norms and tables random too."""
    ours = DualStreamTransformer(config).eval()
    for name, tensor in ours.file_tensors().items():
        fan_in = tensor.shape[-1] if tensor.ndim == 2 and "table" not in name else 4
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
        if "norm" in name:
            tensor.add_(1)
    tensors = ours.file_tensors()
    names = [name for name in tensor_table(config) if name.diffusers is not None]
    reference = reference_of(config)
    reference.load_state_dict({name.diffusers: tensors[name.ours] for name in names}, strict=True)
    return ours, reference


def features(
    config: ModelConfig, batch: int, tokens: int, generator: torch.Generator
) -> PerStream[Tensor]:
    """Random text features as `read_text` takes them."""
    widths = PerStream(config.text_width, config.text_width)
    if config.modulated_text:
        widths = PerStream(config.video.width, config.audio.width)
    return widths.map(lambda width: torch.randn(batch, tokens, width, generator=generator))


def tokens_of(video: Tensor) -> Tensor:
    """(batch, frames, channels, height, width) to (batch, tokens, channels), frame-major."""
    return video.permute(0, 1, 3, 4, 2).flatten(1, 3)
