"""Small random models of diffusers' and transformers' classes: LTX-2's structure, few channels."""

from math import pi

import torch

_VIDEO = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "encoder_causal": True,
    "decoder_causal": False,
    "encoder_spatial_padding_mode": "zeros",
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
_VIDEO_20 = _VIDEO | {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2, 2, 2),
    "decoder_spatial_padding_mode": "reflect",
}
VIDEO_CONFIGS = {
    "2.0": _VIDEO_20,
    "2.0 with a timestep": _VIDEO_20 | {"timestep_conditioning": True},
    "2.3": _VIDEO
    | {
        "decoder_block_out_channels": (32, 64, 64, 128),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "decoder_spatio_temporal_scaling": (True,) * 4,
        "decoder_inject_noise": (False,) * 5,
        "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        "upsample_residual": (False,) * 4,
        "upsample_factor": (2, 2, 1, 2),
        "decoder_spatial_padding_mode": "zeros",
    },
}
BANDS = 16
TEXT_TOKENS = 8
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = ("a", "red", "blue", "disc", "flashes", "twice", "second", "with", "high", "low", "beep")


def video_vae(kind="2.0", seed=0, **changes):
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(seed)
    return with_statistics(AutoencoderKLLTX2Video(**VIDEO_CONFIGS[kind] | changes))


def audio_vae(seed=0, **changes):
    from diffusers import AutoencoderKLLTX2Audio

    torch.manual_seed(seed)
    config = {
        "base_channels": 8,
        "ch_mult": (1, 2, 4),
        "num_res_blocks": 2,
        "resolution": 32,
        "latent_channels": 2,
        "norm_type": "pixel",
        "causality_axis": "height",
        "mel_bins": BANDS,
    }
    return with_statistics(AutoencoderKLLTX2Audio(**config | changes))


def with_statistics(vae):
    """A VAE with means and deviations that show when they are left out, or mixed up."""
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return vae


def vocoder(kind="2.0", seed=0):
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

    torch.manual_seed(seed)
    if kind == "2.0":
        return LTX2Vocoder(in_channels=2 * BANDS, hidden_channels=32)
    extending = LTX2VocoderWithBWE(
        in_channels=2 * BANDS,
        hidden_channels=64,
        bwe_in_channels=2 * BANDS,
        bwe_hidden_channels=32,
        num_mel_channels=BANDS,
    )
    return with_spectrogram(extending)


def with_spectrogram(extending):
    """The Fourier and mel bases, which diffusers leaves at zero for a checkpoint to fill."""
    stft = extending.mel_stft.stft_fn
    length = stft.forward_basis.shape[-1]
    angles = 2 * pi / length * torch.arange(length // 2 + 1)[:, None] * torch.arange(length)
    bases = torch.cat((angles.cos(), -angles.sin())) * torch.hann_window(length)
    stft.forward_basis.copy_(bases[:, None])
    extending.mel_stft.mel_basis.uniform_(0, 0.02)
    return extending


def gemma(seed=0):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

    torch.manual_seed(seed)
    text = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
    )
    vision = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    indices = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **indices)
    return Gemma3ForConditionalGeneration(config)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    # Gemma's own tokenizer pads on the left too, but a wrapper must not rely on it.
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side="right",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def connectors(kind="2.0", seed=0):
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    torch.manual_seed(seed)
    changes = {}
    if kind == "2.3":
        changes = {
            "per_modality_projections": True,
            "proj_bias": True,
            "video_gated_attn": True,
            "audio_gated_attn": True,
            "video_hidden_dim": 24,
            "audio_hidden_dim": 8,
            "video_connector_attention_head_dim": 12,
            "audio_connector_attention_head_dim": 4,
        }
    config = {
        "caption_channels": 16,
        "text_proj_in_factor": 3,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 8,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": 4,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 8,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": 4,
        "connector_rope_base_seq_len": 32,
        "rope_type": "split",
    }
    return LTX2TextConnectors(**config | changes)
