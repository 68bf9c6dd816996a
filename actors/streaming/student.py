"""The student as it is streamed: in its precision, with weights laid out for it."""

from collections.abc import Collection
from pathlib import Path

import torch

from infra.config import RunConfig
from omniforcing_model.per_stream import STREAMS
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.exchange import Exchange
from omniforcing_model.transformer.float8 import use_float8
from omniforcing_model.weights.checkpoint_files import load_model
from omniforcing_model.weights.stated_family import StatedFamily


def load_student(
    folder: Path,
    config: RunConfig,
    device: str = "cpu",
    halves: Collection[str] = STREAMS,
    exchange: Exchange | None = None,
) -> DualStreamTransformer:
    """A model folder's weights in `sampling.student_precision`, sealed.

    Args:
        folder: model.safetensors and config.json.
        config: the run; what it states of the weights' family has to fit them.
        device: where they go.
        halves: "video", "audio" or both.
        exchange: how the other half is reached, where it is not in `halves`.

    Raises:
        WeightsError: the weights are not what the folder or the run says.
        PrecisionError: float8 without torchao.
    """
    precision = config.sampling.student_precision
    model = load_model(
        folder,
        halves=halves,
        exchange=exchange,
        dtype=torch.float32 if precision == "float32" else torch.bfloat16,
        device=device,
        stated=StatedFamily.of(config.model),
    )
    model.requires_grad_(False)
    if precision == "float8":
        use_float8(model)
    return model.seal()
