"""Text features of a prompt that no row of a dataset has: of no words, or of what is not wanted."""

import gc
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from actors.latents.codec_loading import load_text_encoder, own_device
from actors.training.ranks import own_rank, raised_by_all
from infra.config import RunConfig
from omniforcing_model.per_stream import PerStream


def features_of(config: RunConfig, prompt: str) -> PerStream[Tensor]:
    """Text features (1, tokens, width) per stream, on the CPU; every rank asks at the same time.

    One rank encodes the prompt and keeps nothing of the encoder, whose 12 billion weights need as
    much room as a model's: ask before there is one. ConfigError, on every rank, if the encoder's
    weights are not where the run says.
    """
    encoded: list[Any] = [None]
    with raised_by_all():
        if own_rank().number == 0:
            encoded = [_encoded(config, prompt)]
    if own_rank().of > 1:
        dist.broadcast_object_list(encoded)
    features: PerStream[Tensor] = encoded[0]
    return features


def _encoded(config: RunConfig, prompt: str) -> PerStream[Tensor]:
    encoder = load_text_encoder(config, own_device())
    features = encoder.encode([prompt])
    del encoder
    gc.collect()  # modules that know each other are not freed by themselves
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return features
