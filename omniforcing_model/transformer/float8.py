"""Linear layers in float8 (torchao, the extra `float8`): half the weights' memory, and on GPUs that
multiply in float8 (compute capability 8.9 and newer) up to twice the rate.

Each row has a scale of its own. Elsewhere only the weights are float8 and products run in the
model's type, which is what the error can be measured with. Projections of the layers are converted;
modulation, text and the ends of the model stay as they are, since few tokens pass through them and
their error would touch every token.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

from omniforcing_model.errors import PrecisionError
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.projections import ColumnLinear, RowLinear

FIRST_CAPABILITY = (8, 9)


def use_float8(model: DualStreamTransformer) -> DualStreamTransformer:
    """Convert the layers' projections of `model` in place, and return it.

    Raises:
        PrecisionError: torchao is not installed, or the model is not bfloat16.
    """
    quantization = _torchao()
    if model.dtype != torch.bfloat16:
        raise PrecisionError(
            f"expected a bfloat16 model to convert, got {model.dtype}; load it in bfloat16 first"
        )
    config = _conversion(quantization, model.device)
    quantization.quantize_(model, config, filter_fn=is_projection_of_a_layer)
    return model


def layer_in_float8(layer: nn.Linear) -> nn.Linear:
    """Convert one bfloat16 layer in place, as those of a model are, and return it.

    PrecisionError if torchao is not installed.
    """
    quantization = _torchao()
    quantization.quantize_(layer, _conversion(quantization, layer.weight.device))
    return layer


def multiplies_in_float8(device: torch.device) -> bool:
    """Whether the device has float8 matrix products."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY


def has_float8_products(device: torch.device) -> bool:
    """Whether a model converted here multiplies in float8: the device can, torchao is there."""
    return multiplies_in_float8(device) and importlib.util.find_spec("torchao") is not None


def is_projection_of_a_layer(module: nn.Module, name: str) -> bool:
    """Whether `use_float8` converts the module of that name."""
    return isinstance(module, ColumnLinear | RowLinear) and ".layers." in name


def _torchao() -> Any:
    try:
        from torchao import quantization  # noqa: PLC0415  an optional extra, slow to import
    except ImportError as error:
        raise PrecisionError(
            "expected torchao for float8, got an environment without it; install the extra"
            " `float8`, or choose bfloat16"
        ) from error
    return quantization


def _conversion(quantization: Any, device: torch.device) -> Any:
    if multiplies_in_float8(device):
        return quantization.Float8DynamicActivationFloat8WeightConfig(
            granularity=quantization.PerRow()
        )
    return quantization.Float8WeightOnlyConfig()
