"""Every region as data, for whoever lists, counts or opens them."""

from typing import NamedTuple


class Region(NamedTuple):
    """One region.

    function: of regions.py. replaces: what it is without a kernel of its own. operators: names in
    the namespace `omniforcing`. sources: file and name of each Triton
    kernel that is launched for it, one a call.
    """

    function: str
    replaces: str
    operators: tuple[str, ...]
    sources: tuple[str, ...]


_NORM = "fused/row_norms.py:add_norm_kernel"
_INPUTS = "fused/heads.py:attention_inputs_kernel"
REGIONS = (
    Region(
        "add_norm",
        "product with a gate, sum, RMSNorm, and one or two times product with a scale and sum with"
        " a shift",
        ("add_norm",),
        (_NORM,),
    ),
    Region(
        "head_norm",
        "copy of a part of a product, RMSNorm, product with a weight; where it turns also a copy in"
        " float32, roll, two products, sum and rounding",
        ("head_norm",),
        (_NORM, _INPUTS),
    ),
    Region(
        "attention_inputs",
        "the same of queries and keys; writing keys and values in their places",
        ("attention_inputs", "attention_inputs_kept"),
        (_INPUTS,),
    ),
    Region(
        "write",
        "writing keys and values in their places",
        ("write",),
        ("fused/heads.py:write_kernel",),
    ),
    Region(
        "gate_heads",
        "sigmoid, two products, and a copy that joins heads",
        ("gate_heads",),
        ("fused/heads.py:gate_heads_kernel",),
    ),
    Region(
        "rotate",
        "copy in float32, roll, two products, sum, rounding, and a copy where it goes to",
        ("rotate", "rotate_into"),
        ("fused/heads.py:rotate_kernel",),
    ),
)
