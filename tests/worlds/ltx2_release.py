"""A release of LTX-2 in diffusers' layout, small and random, and runs that name it."""

import torch

from infra.presets import load_preset
from omniforcing_model.config import ModelConfig, RotaryConfig, StreamConfig
from tests.parity.ltx2_codec_models import (
    TEXT_TOKENS,
    audio_vae,
    connectors,
    gemma,
    tokenizer,
    video_vae,
    vocoder,
)
from tests.parity.ltx2_reference import reference_of
from tests.worlds.beacon_clips import write_beacon_clip, write_captions
from tests.worlds.layouts import layout_of
from tests.worlds.openai_server import write_gemma

# Latent channels are those of the small VAEs, the text width that of the small connectors. Phases
# and layout are not in a release: the run states them.
MODEL = ModelConfig(
    layers=2,
    video=StreamConfig(latent_channels=8, heads=2, head_dim=16),
    audio=StreamConfig(latent_channels=8, heads=2, head_dim=8),
    text_width=16,
    spatial_stride=32,
    timestep_scale=1000,
    gate_timestep_scale=1000,
    rotary=RotaryConfig(
        pairs="split",
        frequencies="float64",
        theta=10_000,
        max_seconds=20,
        max_height=2048,
        max_width=2048,
    ),
    layout=layout_of("paper", sinks=0, window_blocks=4),
)
# Text comes in each stream's own width, which is that of the small connectors of 2.3.
MODEL_23 = MODEL.model_copy(
    update={
        "architecture": "ltx-2.3",
        "video": StreamConfig(latent_channels=8, heads=2, head_dim=12),
        "audio": StreamConfig(latent_channels=8, heads=2, head_dim=4),
        "text_width": 24,
    }
)
# What a small machine without a GPU must say of the preset `paper`, besides where the weights are.
SMALL = (
    f"codec.text_tokens={TEXT_TOKENS}",
    "data.height=64",
    "data.width=64",
    "data.seconds=1",
    "sampling.student_precision=float32",
    "serve.layout=colocated",
    "serve.host=127.0.0.1",
    "serve.api_key_file=null",
    "cluster.address=null",
    "cluster.text_encoder={replicas: 1, cpus: 0.5, gpus: 0}",
    "cluster.prompt_encoder={replicas: 1, cpus: 0.5, gpus: 0}",
    "cluster.video_stream={cpus: 1, gpus: 0}",
    "cluster.audio_stream={cpus: 1, gpus: 0}",
    "cluster.clip_decoder={replicas: 1, cpus: 1, gpus: 0}",
    "cluster.latent_encoder={replicas: 1, cpus: 1, gpus: 0}",
)


# And small clips, with what a small Gemma says of them.
SMALL_CLIPS = (
    "data.split.kind=first",
    "data.gates.min_height=64",
    "data.gates.min_width=64",
    "data.rewriter.max_new_tokens=24",
    "data.rewriter.min_words=4",
)


def write_preprocessing(folder, captions):
    """`release`, a `gemma` that has learnt to rewrite `LEARNT`, and `clips` with these captions."""
    write_release(folder / "release")
    write_gemma(folder / "gemma", run_of(folder / "release", *SMALL_CLIPS).data.rewriter)
    (folder / "clips").mkdir()
    for number, name in enumerate(captions):
        write_beacon_clip(folder / "clips" / name, number)
    write_captions(folder / "clips", captions)
    return folder


def write_release(folder, kind="2.0"):
    """All parts of a release; returns `folder`."""
    torch.manual_seed(0)
    reference_of(MODEL_23 if kind == "2.3" else MODEL).save_pretrained(folder / "transformer")
    video_vae(kind).save_pretrained(folder / "vae")
    audio_vae().save_pretrained(folder / "audio_vae")
    vocoder(kind).save_pretrained(folder / "vocoder")
    gemma().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    connectors(kind).save_pretrained(folder / "connectors")
    return folder


def run_of(folder, *overrides):
    """The preset `paper` with the release in `folder`."""
    return load_preset("paper", [*settings_of(folder), *overrides])


def settings_of(folder):
    """What `--set` must say to use the release."""
    return [*(f"codec.{name}={folder}" for name in ("video", "audio", "text")), *SMALL]
