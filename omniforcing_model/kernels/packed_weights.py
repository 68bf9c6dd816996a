"""Linear layers in the form that is fastest where they run.

On a CPU these are oneDNN's products, with weights laid out once as they read them.
PyTorch's own float32 layer multiplies through MKL, its bfloat16 layer lays the weight out anew in
every call. On the AMD EPYC that README.md names, oneDNN with packed weights is 1.2 times as fast in
either, and GELU is part of the product instead of passes over the widest tensor of a layer; so it
is on a GPU.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniforcing_model.errors import PrecisionError
from omniforcing_model.kernels.elementwise import gelu


def can_pack(weight: Tensor) -> bool:
    """Whether `pack_weight` takes this weight: a plain one on a CPU for which oneDNN is built."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if type(weight) not in (Tensor, nn.Parameter) or weight.is_mkldnn:  # quantised, or packed
        return False
    # Without bfloat16 products in the CPU, oneDNN has none worth having either.
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def pack_weight(weight: Tensor) -> Tensor:
    """`weight` (columns, inner) of a linear layer in oneDNN's own layout, for `linear` alone.

    PrecisionError if it is being trained.
    """
    if weight.requires_grad:
        raise PrecisionError(
            "expected weights that are not trained, got one with a gradient; call"
            " requires_grad_(False) first, or leave a model in training as it is"
        )
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., inner) to (..., columns), whether `weight` is packed or not."""
    if not weight.is_mkldnn:
        return functional.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU in its tanh form of x W^T + b."""
    if weight.is_mkldnn:
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
        return packed
    if bias is None or not _ends_products(x, weight):
        return gelu(functional.linear(x, weight, bias))
    # cuBLAS ends the product with it. On CUDA, and on no other device, this is GELU's tanh form.
    flat = torch._addmm_activation(bias, x.flatten(0, -2), weight.mT, use_gelu=True)
    product: Tensor = flat.unflatten(0, x.shape[:-1])
    return product


def _ends_products(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of these can end with an activation; the meta device stands for a GPU."""
    on_gpu = weight.device.type in ("cuda", "meta") and type(weight) in (Tensor, nn.Parameter)
    return on_gpu and x.dtype == weight.dtype and not torch.is_grad_enabled()
