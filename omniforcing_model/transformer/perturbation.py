"""Degraded passes of the same model, for the teacher's guidance (LTX-2: STG and modality guidance).

Spatio-temporal guidance (STG) compares with a pass whose self-attention is weakened in some layers,
modality guidance with one whose streams do not attend to each other.
"""

from typing import Literal, NamedTuple


class Perturbation(NamedTuple):
    """What one forward pass leaves out.

    `drop` leaves out the whole self-attention branch of the named layers, in both streams (as
    LTX-2.0 defines it); `values` lets every token attend to itself alone (LTX-2.3). `isolate`
    leaves out both cross-modal branches in all layers.
    """

    self_attention: frozenset[int] = frozenset()
    kind: Literal["drop", "values"] = "drop"
    isolate: bool = False
