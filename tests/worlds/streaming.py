"""A small streaming setup on disk: random weights, codecs fitted to noise, and their run."""

from pathlib import Path

import torch

from infra.config import RunConfig
from infra.presets import load_preset
from omniforcing_model.codecs.tiny.audio_codec import TinyAudioCodec
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.checkpoint_files import save_model

LAYERS = 2


def write_streaming_world(folder: Path, *overrides: str) -> tuple[Path, RunConfig]:
    """Write a model and codecs into `folder`; returns the model folder and the run."""
    generator = torch.Generator().manual_seed(0)
    paths = (folder / "video_codec.safetensors", folder / "audio_codec.safetensors")
    codecs = [f"codec.video={paths[0]}", f"codec.audio={paths[1]}"]
    config = load_preset("tiny", [f"model.layers={LAYERS}", *codecs, *overrides])
    frames = torch.rand(4, 9, 3, 64, 64, generator=generator) * 2 - 1
    TinyVideoCodec.fit([frames]).save(paths[0])
    waveform = torch.rand(4, 2, 16_160, generator=generator) - 0.5
    TinyAudioCodec.fit([waveform], latents=26).save(paths[1])
    torch.manual_seed(0)
    model = DualStreamTransformer(config.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_model(folder / "model", model, {})
    return folder / "model", config
