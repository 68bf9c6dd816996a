"""What one call of an operator launches on a GPU: how many kernels, of which kind.

A table, as PyTorch's sources have it. An attention and a matrix product are one kernel each;
libraries cut some with few rows in parts and launch another that sums them, which a profile shows
(profiled_block.py).
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

REGIONS = "omniforcing"  # the namespace of our own operators, each of them one kernel

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addbmm", "_addmm_activation", "_scaled_mm", "linear"}
ATTENTIONS = {
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
}
NORMS = {"rms_norm", "_fused_rms_norm", "native_layer_norm"}
COPIES = {"clone", "copy", "_to_copy", "cat", "stack", "constant_pad_nd", "roll", "flip", "repeat"}
MADE = {
    "arange", "eye", "fill", "full", "full_like", "linspace", "new_full", "new_ones", "new_zeros",
    "normal", "ones", "ones_like", "rand", "randn", "scalar_tensor", "uniform", "zero", "zeros",
    "zeros_like",
}  # fmt: skip
INDEXED = {"embedding", "gather", "index", "index_copy", "index_put", "index_select", "scatter"}
REDUCTIONS = {
    "_softmax", "all", "amax", "any", "argmax", "linalg_vector_norm", "max", "mean", "min", "sum",
    "var_mean",
}  # fmt: skip
KINDS = {
    name: kind
    for kind, names in {
        "product": PRODUCTS,
        "attention": ATTENTIONS,
        "norm": NORMS,
        "copy": COPIES,
        "made": MADE,
        "indexed": INDEXED,
        "reduction": REDUCTIONS,
    }.items()
    for name in names
}
# A value is copied to the host, memory is taken, or nothing but shape and strides changes.
NO_KERNEL = {
    "_local_scalar_dense", "_pin_memory", "_unsafe_view", "empty", "empty_like", "empty_strided",
    "is_pinned", "new_empty", "new_empty_strided", "pin_memory", "record_stream", "resize", "set",
}  # fmt: skip
# They read contiguous memory, and copy what is not.
COPY_STRIDED_INPUT = {"rms_norm", "_fused_rms_norm", "native_layer_norm", "roll"}
TWO_KERNELS = {"constant_pad_nd"}  # a fill, and a copy into the middle


class Launches(NamedTuple):
    """Kernels of one call, and their kind; `is_known` is False where the table has no such name."""

    kind: str
    kernels: int
    is_known: bool = True


NOTHING = Launches("", 0)


@functools.cache
def plain_name(operator: OpOverload) -> str:
    """The operator's name without what marks its in-place form."""
    packet: str = operator.overloadpacket.__name__
    return packet if packet.endswith("__") else packet.rstrip("_")


def launches_of(operator: OpOverload, first: Tensor | None) -> Launches:
    """What a call launches whose tensors are on the GPU; `first` is the first of them."""
    name = plain_name(operator)
    if operator.namespace == REGIONS:
        return Launches(f"region {name}", 1)
    if name in NO_KERNEL or operator.is_view:
        return NOTHING
    copies = name in COPY_STRIDED_INPUT and first is not None and not first.is_contiguous()
    kernels = 1 + copies + (name in TWO_KERNELS)
    if name in KINDS:
        return Launches(KINDS[name], kernels)
    if operator.namespace in ("c10d", "_c10d_functional"):
        return Launches("communication", kernels)
    if torch.Tag.pointwise in operator.tags:
        return Launches("elementwise", kernels)
    return Launches("other", kernels, is_known=False)
