"""Where a role starts: the weights of a checkpoint, or fresh ones, read part by part.

A rank that holds a part of each weight reads that part and no more, so that nobody's memory holds
a whole model of which each rank keeps a thirty-second.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from actors.training.deepspeed_engines import (
    DTYPES,
    SPREAD_WEIGHTS,
    Held,
    engine_settings,
    spread,
)
from infra.config import RunConfig
from infra.errors import ConfigError
from infra.runs.checkpoint_store import resolve_model
from infra.runs.provenance import differing_keys
from infra.stages import OptimiserConfig
from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.gathered_weights import gathered_linear
from omniforcing_model.seeds import TRAINING_SEED_BITS, seed_of
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.projections import FileTensor
from omniforcing_model.transformer.stream_layer import StreamLayer, StreamName
from omniforcing_model.transformer.stream_parallel import WHOLE
from omniforcing_model.weights.checkpoint_format import open_checkpoint
from omniforcing_model.weights.stated_family import StatedFamily


class StartWeights(Protocol):
    """A model's weights by the names of its parameters."""

    config: ModelConfig

    def part(self, name: str, first: int, count: int) -> Tensor:
        """Elements [first, first + count) of a weight, flat, on the CPU."""
        ...


class CheckpointWeights:
    """Of a checkpoint of any format."""

    def __init__(self, folder: Path, stated: StatedFamily) -> None:
        """Open it; WeightsError if tensors are missing, unexpected or of another shape."""
        self._checkpoint = open_checkpoint(folder, stated)
        self._checkpoint.require()
        self.config = self._checkpoint.config

    def part(self, name: str, first: int, count: int) -> Tensor:
        """Elements [first, first + count) of a weight, flat, on the CPU."""
        found = [
            self._rows(file_name, piece, first, first + count)
            for file_name, piece in self._pieces[name]
        ]
        return torch.cat(found) if len(found) > 1 else found[0]

    @cached_property
    def _pieces(self) -> dict[str, list[tuple[str, FileTensor]]]:
        """What a file holds of each parameter, by the file's names."""
        pieces: dict[str, list[tuple[str, FileTensor]]] = {}
        twin = DualStreamTransformer.without_memory(self.config)
        for name, piece in twin.file_pieces().items():
            pieces.setdefault(piece.parameter, []).append((name, piece))
        return pieces

    def _rows(self, name: str, piece: FileTensor, first: int, end: int) -> Tensor:
        """What a file's tensor holds of elements [first, end) of the parameter; its rows alone are
        read."""
        rows = len(piece.view)
        each = math.prod(piece.view.shape[1:])
        begin = min(max(first - piece.row * each, 0), rows * each)
        stop = min(max(end - piece.row * each, 0), rows * each)
        if begin == stop:
            return torch.empty(0)
        top = begin // each
        read = self._checkpoint.tensor(name, slice(top, -(-stop // each))).flatten()
        return read[begin - top * each : stop - top * each]


class FreshWeights:
    """Random ones, made layer by layer, the same however many ranks read them."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        self._layer: tuple[str, dict[str, nn.Parameter]] = ("", {})

    def part(self, name: str, first: int, count: int) -> Tensor:
        """Elements [first, first + count) of a weight, flat, on the CPU."""
        stream, kind, *rest = name.split(".")
        if kind != "layers":
            return self._ends[name].detach().flatten()[first : first + count]
        index, *rest = rest
        layer = f"{stream}.{index}"
        if self._layer[0] != layer:
            with self._seeded(layer):
                made = StreamLayer(self.config, cast("StreamName", stream), int(index), WHOLE)
            self._layer = (layer, dict(made.named_parameters()))
        return self._layer[1][".".join(rest)].detach().flatten()[first : first + count]

    @cached_property
    def _ends(self) -> dict[str, nn.Parameter]:
        with self._seeded("ends"):
            model = DualStreamTransformer(self.config.model_copy(update={"layers": 1}))
        return dict(model.named_parameters())

    @contextmanager
    def _seeded(self, name: str) -> Iterator[None]:
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(seed_of(self._seed, name, bits=TRAINING_SEED_BITS))
            yield


def start_weights(config: RunConfig, stage: str, role: str, start: str | None) -> StartWeights:
    """Those of the model `start`, or without one fresh ones; ConfigError if they are of another
    shape than `config` says, CheckpointError if there are none."""
    if start is None:
        return FreshWeights(config.model, config.stages.trained_stage(stage).optimiser.seed)
    weights = CheckpointWeights(resolve_model(start), StatedFamily.of(config.model))
    differences = differing_keys(
        weights.config.model_dump(mode="json"), config.model.model_dump(mode="json")
    )
    if differences:
        raise ConfigError(
            f"expected the {role} of {stage} to be a model of this configuration, got another from"
            f" {start}: {'; '.join(differences)}; start from another model or set the keys of"
            " `model` to its values"
        )
    return weights


def made_network(
    start: StartWeights, optimiser: OptimiserConfig | Held, device: str
) -> DualStreamTransformer:
    """A transformer with the weights of `start`, spread over the ranks where ZeRO's stage says so.

    Every rank makes one at the same time, and reads of a spread weight its own part alone.
    """
    dtype = DTYPES[optimiser.precision]
    network = DualStreamTransformer.without_memory(start.config).to(dtype)
    is_spread = optimiser.zero_stage == SPREAD_WEIGHTS
    if is_spread:
        made_spread(network, engine_settings(start.config, optimiser), device)
        network.multiply_by(gathered_linear)
    else:
        give_memory(network, device)
    for name, parameter in network.named_parameters():
        own, first = own_part(parameter) if is_spread else (parameter.data.flatten(), 0)
        own.copy_(start.part(name, first, len(own)))
    return network


def made_spread(
    network: DualStreamTransformer,
    settings: dict[str, Any],
    device: torch.device | str,
    group: Any = None,
) -> None:
    """Give the weights of `network`, which has no memory, memory that is spread over the ranks.

    A layer is whole at a time. `settings`: of the engine. `group`: of ranks; all without one.
    """
    for module in (*_layers(network), network):
        give_memory(module, device)
        spread(module, settings, network.dtype, group)


def give_memory(module: nn.Module, device: torch.device | str) -> None:
    """Memory for those weights of `module` that have none; their values are to be written."""
    for part in module.modules():
        if any(parameter.is_meta for parameter in part.parameters(recurse=False)):
            part.to_empty(device=device, recurse=False)


def own_part(parameter: nn.Parameter, group: Any = None) -> tuple[Tensor, int]:
    """This rank's part of a weight that is spread over all ranks, or those of `group`, without what
    fills it up, and where it begins."""
    spread_over: Any = parameter
    own, first = spread_over.ds_tensor, dist.get_rank(group) * spread_over.ds_tensor.ds_numel
    return own[: max(0, spread_over.ds_numel - first)], first


def _layers(network: DualStreamTransformer) -> Iterator[StreamLayer]:
    for half in network.halves:
        assert half is not None
        yield from half.stream_layers
