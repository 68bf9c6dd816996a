"""Classifier-free guidance on clean predictions, a scale per modality (paper: 3 and 5)."""

from torch import Tensor

from omniforcing_model.per_stream import PerStream


def guide(
    conditional: PerStream[Tensor], unconditional: PerStream[Tensor], scale: PerStream[float]
) -> PerStream[Tensor]:
    """x0 = c + (scale - 1)(c - u), per stream."""
    return conditional.map(lambda c, u, s: c + (s - 1) * (c - u), unconditional, scale)
