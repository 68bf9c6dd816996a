"""Classifier-free guidance on clean predictions, with a scale per modality (paper: w_v 3, w_a 5)."""

from torch import Tensor

from omniforcing_model.per_stream import PerStream


def guide(
    conditional: PerStream[Tensor], unconditional: PerStream[Tensor], scale: PerStream[float]
) -> PerStream[Tensor]:
    """x0 = c + (scale - 1)(c - u), per stream."""
    return conditional.map(lambda c, u, s: c + (s - 1) * (c - u), unconditional, scale)
