"""One pass of a stream as a function of tensors of fixed shape, and who runs it.

Plainly, compiled, or on a GPU as a captured graph: once per kind of pass (block 0, a window that
fills, a full one), whatever the block.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from omniforcing_model.flow_matching import to_clean
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import AttentionView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.level_table import LevelTable
from omniforcing_model.transformer.text_context import TextContext

# Passes before a capture: libraries choose their kernels and take their workspaces.
PASSES_BEFORE_CAPTURE = 2


class PassInputs(NamedTuple):
    """What changes from pass to pass.

    noisy: latents (rows, latents, ...), float32. level: index of each row's sigma, (rows,) int64.
    """

    noisy: PerStream[Tensor]
    level: PerStream[Tensor]

    def kept(self) -> "PassInputs":
        """Buffers of these shapes, which `take` fills."""

        def like(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)

        return PassInputs(self.noisy.map(like), self.level.map(like))

    def take(self, new: "PassInputs") -> None:
        """Copy `new` into these buffers."""
        self.noisy.map(torch.Tensor.copy_, new.noisy)
        self.level.map(torch.Tensor.copy_, new.level)


class PassKind(NamedTuple):
    """What stays: the model and what its passes of one kind read. `name` tells kinds apart."""

    name: Hashable
    model: DualStreamTransformer
    table: LevelTable
    text: TextContext
    view: AttentionView


def denoise(kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
    """Clean latents, float32, in the shapes of the noisy ones."""
    noisy = inputs.noisy.map(lambda x: x.to(kind.model.dtype))
    level = kind.table.at(inputs.level)
    velocity = kind.model(noisy, level, kind.text, kind.view)
    sigma = inputs.level.map(lambda level: kind.table.sigmas.index_select(0, level))
    return inputs.noisy.map(lambda x, v, own: to_clean(x, v.float(), own), velocity, sigma)


class Passes(Protocol):
    """Runs passes; what it returns holds until the next one, of whatever kind."""

    def __call__(self, kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
        """`denoise(kind, inputs)`."""
        ...


class CompiledPasses:
    """Passes through torch.compile: one full graph per kind, whole (no break is allowed)."""

    def __init__(self, backend: str | Callable[..., object]) -> None:
        self._backend = backend
        self._compiled: dict[Hashable, Callable[[PassInputs], PerStream[Tensor]]] = {}
        self._inputs: dict[Hashable, PassInputs] = {}

    def __call__(self, kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
        """`denoise(kind, inputs)`."""
        if kind.name not in self._compiled:

            def run(inputs: PassInputs) -> PerStream[Tensor]:
                return denoise(kind, inputs)

            compiled = torch.compile(run, fullgraph=True, dynamic=False, backend=self._backend)
            self._compiled[kind.name] = compiled
            self._inputs[kind.name] = inputs.kept()
        # Strides are part of a graph, and results have others than noise.
        self._inputs[kind.name].take(inputs)
        return self._compiled[kind.name](self._inputs[kind.name])


class CapturedPasses:
    """Passes as CUDA graphs, captured when a kind comes for the first time.

    Graphs hold the addresses of weights, text and buffers: they live as long as this object, which
    whoever drops those drops with them.
    """

    def __init__(self) -> None:
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None

    def __call__(self, kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
        """`denoise(kind, inputs)`, in buffers that the next pass overwrites."""
        if kind.name not in self._captured:
            captured = _Captured(kind, inputs, self._pool)
            self._captured[kind.name] = captured
            self._pool = captured.pool
        return self._captured[kind.name].replay(inputs)


class _Captured:
    def __init__(self, kind: PassKind, inputs: PassInputs, pool: Any) -> None:
        self._inputs = inputs.kept()
        self._inputs.take(inputs)
        device = kind.table.sigmas.device
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(PASSES_BEFORE_CAPTURE):
                denoise(kind, self._inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, as for decoding.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._clean = denoise(kind, self._inputs)
        self.pool = self._graph.pool()

    def replay(self, inputs: PassInputs) -> PerStream[Tensor]:
        self._inputs.take(inputs)
        self._graph.replay()
        return self._clean


def passes_for(device: torch.device) -> Passes:
    """How passes run best on `device`: captured where there are graphs, else plainly."""
    return CapturedPasses() if device.type == "cuda" else denoise
