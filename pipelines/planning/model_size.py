"""How large a model is: its parameters, counted on the meta device, where none has memory.

All layers of a stream are alike, so one is built and stands for all.
"""

from functools import lru_cache
from typing import NamedTuple

from torch import nn

from actors.training.deepspeed_engines import PERSISTENT_ROWS
from omniforcing_model.config import ModelConfig
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer

LAYER, SINKS = ".layers.", ".sinks."


class ModelSize(NamedTuple):
    """Parameters of a model.

    `layer`: of one layer of each half. `ends`: of what is in no layer. `sinks`: of the ends, which
    only a causal generator trains. `vectors`: norms, biases and tables, which ZeRO-3 keeps whole on
    every rank once it has gathered them. `tensors`: by name, of the whole model.
    """

    layers: int
    layer: PerStream[int]
    ends: PerStream[int]
    sinks: int
    vectors: int
    tensors: dict[str, int]

    @property
    def halves(self) -> PerStream[int]:
        """Of each half."""
        return self.layer.map(lambda one, ends: self.layers * one + ends, self.ends)

    @property
    def total(self) -> int:
        """Of both halves."""
        return sum(self.halves)

    @property
    def largest(self) -> int:
        """Of the largest weight."""
        return max(self.tensors.values())

    def trained(self, with_sinks: bool) -> int:
        """That a role updates."""
        return self.total - (0 if with_sinks else self.sinks)


@lru_cache(maxsize=8)
def model_size(config: ModelConfig) -> ModelSize:
    """Count the parameters of a model of this configuration."""
    model = DualStreamTransformer.without_memory(config.model_copy(update={"layers": 1}))
    layer = model.halves.map(lambda half: _parameters(half.layers))
    whole = model.halves.map(_parameters)
    tensors: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        copies = range(config.layers) if LAYER in name else range(1)
        for index in copies:
            tensors[name.replace(f"{LAYER}0.", f"{LAYER}{index}.")] = parameter.numel()
    return ModelSize(
        layers=config.layers,
        layer=layer,
        ends=whole.map(lambda own, one: own - one, layer),
        sinks=sum(count for name, count in tensors.items() if SINKS in f".{name}"),
        vectors=sum(n for n in tensors.values() if n <= persistent_elements(config)),
        tensors=tensors,
    )


def persistent_elements(config: ModelConfig) -> int:
    """Of the largest parameter that ZeRO-3 does not cut."""
    return PERSISTENT_ROWS * max(config.video.width, config.audio.width)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
