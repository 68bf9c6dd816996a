"""Our transformer computes what diffusers' LTX-2 class computes with the same weights."""

import pytest
import torch
from torch import Tensor, nn

from omniforcing_model.attention_view import BidirectionalView
from omniforcing_model.config import LayoutConfig, ModelConfig, RotaryConfig, StreamConfig
from omniforcing_model.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.modality_stream import ModalityStream, StreamLayer
from omniforcing_model.per_stream import PerStream

diffusers = pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

GRID = (2, 3)
LATENTS = PerStream(3, 17)


def config_of(pairs: str, frequencies: str, gate_scale: float) -> ModelConfig:
    return ModelConfig(
        layers=2,
        video=StreamConfig(latent_channels=5, heads=2, head_dim=16),
        audio=StreamConfig(latent_channels=7, heads=2, head_dim=8),
        text_width=12,
        spatial_stride=32,
        timestep_scale=1000,
        gate_timestep_scale=gate_scale,
        rotary=RotaryConfig.model_validate(
            {
                "pairs": pairs,
                "frequencies": frequencies,
                "theta": 10000,
                "max_seconds": 20,
                "max_height": 2048,
                "max_width": 2048,
            }
        ),
        layout=LayoutConfig(kind="paper", sinks=0, window_blocks=4),
    )


def reference_of(config: ModelConfig) -> nn.Module:
    video, audio = config.video, config.audio
    return diffusers.LTX2VideoTransformer3DModel(
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
    ).eval()


def pairs_of(ours: ModalityStream, audio: bool) -> dict[str, nn.Module | nn.Parameter]:
    """Reference name of each of our modules, in one stream."""
    a, side = ("audio_", "audio") if audio else ("", "video")
    gate = "audio_v2a_gate" if audio else "video_a2v_gate"
    names: dict[str, nn.Module | nn.Parameter] = {
        f"{a}proj_in": ours.proj_in,
        f"{a}proj_out": ours.proj_out,
        f"{a}scale_shift_table": ours.table_out,
        f"{a}caption_projection.linear_1": ours.caption_in,
        f"{a}caption_projection.linear_2": ours.caption_out,
    }
    for name, module in (
        (f"{a}time_embed", ours.time_embed),
        (f"av_cross_attn_{side}_scale_shift", ours.cross_embed),
        (f"av_cross_attn_{gate}", ours.gate_embed),
    ):
        names[f"{name}.emb.timestep_embedder.linear_1"] = module.linear_1
        names[f"{name}.emb.timestep_embedder.linear_2"] = module.linear_2
        names[f"{name}.linear"] = module.linear
    asks, answers = (
        ("video_to_audio", "audio_to_video") if audio else ("audio_to_video", "video_to_audio")
    )
    for index, layer in enumerate(ours.layers):
        assert isinstance(layer, StreamLayer)
        block = f"transformer_blocks.{index}."
        for name, queries, keys in (
            (f"{a}attn1", layer.self_queries, layer.self_keys),
            (f"{a}attn2", layer.text_queries, layer.text_keys),
            (f"{asks}_attn", layer.cross_queries, None),
            (f"{answers}_attn", None, layer.cross_keys),
        ):
            if queries is not None:
                names[f"{block}{name}.to_q"] = queries.to_q
                names[f"{block}{name}.norm_q"] = queries.norm_q
                names[f"{block}{name}.to_out.0"] = queries.to_out
            if keys is not None:
                names[f"{block}{name}.to_k"] = keys.to_k
                names[f"{block}{name}.norm_k"] = keys.norm_k
                names[f"{block}{name}.to_v"] = keys.to_v
        names[f"{block}{a}ff.net.0.proj"] = layer.feed_forward.up
        names[f"{block}{a}ff.net.2"] = layer.feed_forward.down
        names[f"{block}{a}scale_shift_table"] = layer.table
        names[f"{block}{side}_a2v_cross_attn_scale_shift_table"] = layer.cross_table
    return names


def copy_weights(ours: DualStreamTransformer, reference: nn.Module) -> None:
    state: dict[str, Tensor] = {}
    assert ours.video is not None
    assert ours.audio is not None
    for half, audio in ((ours.video, False), (ours.audio, True)):
        for name, ours_part in pairs_of(half, audio).items():
            if isinstance(ours_part, nn.Parameter):
                state[name] = ours_part.detach()
            else:
                state |= {f"{name}.{k}": v for k, v in ours_part.state_dict().items()}
    reference.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ("pairs", "frequencies", "gate_scale", "tolerance"),
    [
        # diffusers casts its float64 frequencies to float32 before the sine; ours stay exact.
        ("split", "float64", 1000.0, 2e-4),
        ("interleaved", "float32", 1.0, 1e-5),
        ("split", "float32", 1000.0, 1e-5),
    ],
)
def test_bidirectional_forward_equals_diffusers(
    pairs: str, frequencies: str, gate_scale: float, tolerance: float
) -> None:
    config = config_of(pairs, frequencies, gate_scale)
    torch.manual_seed(3)
    model = DualStreamTransformer(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    reference = reference_of(config)
    copy_weights(model, reference)
    video = torch.randn(2, LATENTS.video, 5, *GRID)
    audio = torch.randn(2, LATENTS.audio, 7)
    text = PerStream(torch.randn(2, 6, 12), torch.randn(2, 6, 12))
    sigma = torch.tensor([[0.3], [0.8]])
    view = BidirectionalView(config, LATENTS, GRID)
    with torch.no_grad():
        ours = model(PerStream(video, audio), sigma, model.read_text(text), view)
        theirs_video, theirs_audio = reference(
            hidden_states=video.permute(0, 1, 3, 4, 2).flatten(1, 3),
            audio_hidden_states=audio,
            encoder_hidden_states=text.video,
            audio_encoder_hidden_states=text.audio,
            timestep=sigma[:, 0] * 1000,
            audio_timestep=sigma[:, 0] * 1000,
            num_frames=LATENTS.video,
            height=GRID[0],
            width=GRID[1],
            fps=24.0,
            audio_num_frames=LATENTS.audio,
            return_dict=False,
        )
    tokens = ours.video.permute(0, 1, 3, 4, 2).flatten(1, 3)
    assert theirs_video.std() > 0.1
    assert (tokens - theirs_video).abs().max() <= tolerance
    assert (ours.audio - theirs_audio).abs().max() <= tolerance
