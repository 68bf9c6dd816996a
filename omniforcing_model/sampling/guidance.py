"""Guidance on clean predictions: away from weaker ones, with a strength per stream (LTX-2).

    x0 = c + (cfg - 1)(c - u) + stg (c - p) + (modality - 1)(c - i)
    x0 <- x0 (r std(c) / std(x0) + 1 - r)

c is the prediction for the prompt, u for the negative prompt; p has its self-attention weakened in
some layers (spatio-temporal guidance, STG), and in i the streams do not attend to each other
(modality guidance). The paper's scores use the first term alone, with 3 for video and 5 for audio.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from omniforcing_model.config import ModelConfig
from omniforcing_model.errors import SamplingError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.perturbation import Perturbation

# The layers that LTX-2's authors weaken for STG in each version, and how: 2.0 leaves the branch
# out, in 2.3 every token attends to itself alone. diffusers has the second only, without effect
# in 2.0.
STG_LAYERS: Mapping[str, tuple[int, ...]] = {"ltx-2.0": (29,), "ltx-2.3": (28,)}
STG_KIND: Mapping[str, Literal["drop", "values"]] = {"ltx-2.0": "drop", "ltx-2.3": "values"}


class GuidanceScales(NamedTuple):
    """One stream's strengths; the defaults leave its prediction as it is.

    `cfg` and `modality` are neutral at 1, `stg` at 0. `rescale`: how far the deviation of the
    guided prediction is drawn back to the conditional one's, 0 to 1.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0


class Push(NamedTuple):
    """A weaker prediction, and how strongly each stream is pushed away from it (0: not at all)."""

    weaker: PerStream[Tensor]
    weight: PerStream[float]


def guide(
    conditional: PerStream[Tensor], pushes: Iterable[Push], rescale: PerStream[float]
) -> PerStream[Tensor]:
    """The guided clean prediction, in the shapes of `conditional`, (batch, ...) per stream.

    Args:
        conditional: the prediction for the prompt.
        pushes: added up in their order, and iterated once.
        rescale: share of the deviation's correction, per clip.
    """
    guided = conditional
    for push in pushes:
        guided = guided.map(
            lambda x, c, weaker, weight: x + weight * (c - weaker), conditional, *push
        )
    return guided.map(_rescale, conditional, rescale)


def _rescale(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    if share == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (share * ratio + 1 - share)


def stg_perturbation(config: ModelConfig, layers: Collection[int] | None) -> Perturbation:
    """The perturbed pass of spatio-temporal guidance.

    Args:
        config: of the model; its architecture decides how they are weakened.
        layers: to weaken; None for those that LTX-2's authors weaken.

    Raises:
        SamplingError: no layers, or layers that the model does not have.
    """
    chosen = frozenset(STG_LAYERS[config.architecture] if layers is None else layers)
    if not chosen or not all(0 <= layer < config.layers for layer in chosen):
        names = ", ".join(map(str, sorted(chosen))) or "none"
        raise SamplingError(
            f"expected layers of 0 to {config.layers - 1} to weaken for spatio-temporal guidance,"
            f" got {names}; name some in sampling.stg_layers, or set stg_video and stg_audio to 0"
        )
    return Perturbation(chosen, STG_KIND[config.architecture])
