"""Linear layers and norms of which a process may hold a share, with their names in a file.

Projections of the same input are one matrix product (`to_qkv`), but a file holds them one by one,
whole, as LTX-2's files do: `file_tensors` says which part of which file tensor each piece is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omniforcing_model.kernels.choice import choice_for
from omniforcing_model.kernels.elementwise import EPS, gelu, rms_norm
from omniforcing_model.kernels.packed_weights import can_pack, linear, linear_gelu, pack_weight
from omniforcing_model.transformer.stream_parallel import StreamParallel

# x W^T + b from (..., inner), a weight (columns, inner) and a bias, to (..., columns).
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class FileTensor(NamedTuple):
    """A piece of a parameter and where it is in a file.

    `view` shares memory with the parameter called `parameter`, whose rows from `row` on it is. It
    is rows (dim 0) or columns (dim 1) [start, start + size) of the file's tensor, or all of it
    where `dim` is None.
    """

    view: Tensor
    parameter: str
    dim: int | None = None
    start: int = 0
    row: int = 0

    def of(self, whole: Tensor) -> Tensor:
        """This piece of the file's `whole` tensor."""
        if self.dim is None:
            return whole
        return whole.narrow(self.dim, self.start, self.view.shape[self.dim])


class Linear(nn.Linear):
    """A linear layer of which training may say how it multiplies."""

    def __init__(self, inner: int, columns: int) -> None:
        super().__init__(inner, columns)
        self.product: Product = linear

    def forward(self, x: Tensor) -> Tensor:
        """(..., inner) to (..., columns)."""
        return self.product(x, self.weight, self.bias)


class ColumnLinear(Linear):
    """Several projections of one input as one product; a tensor-parallel share holds some heads."""

    def __init__(self, width: int, parts: Mapping[str, int], parallel: StreamParallel) -> None:
        """`parts`: name in a file and whole output width of each projection, in order."""
        self._share = parallel.degree if parallel.cuts_weights else 1
        self._rank = parallel.rank if parallel.cuts_weights else 0
        super().__init__(width, sum(parts.values()) // self._share)
        self.parts = {name: size // self._share for name, size in parts.items()}

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the projection."""
        if self.product is not linear:
            return gelu(self.product(x, self.weight, self.bias))
        return linear_gelu(x, self.weight, self.bias)

    def file_tensors(self) -> Iterator[tuple[str, FileTensor]]:
        """Names in a file, relative to the parent module, and the pieces they are."""
        first = 0
        for name, size in self.parts.items():
            dim = 0 if self._share > 1 else None
            for kind, parameter in (("weight", self.weight), ("bias", self.bias)):
                view = parameter.data.narrow(0, first, size)
                yield f"{name}.{kind}", FileTensor(view, kind, dim, self._rank * size, first)
            first += size


class RowLinear(Linear):
    """A projection whose input is cut; the shares' products are summed, then the bias is added."""

    def __init__(self, inner: int, width: int, parallel: StreamParallel) -> None:
        self._parallel = parallel
        share = parallel.degree if parallel.cuts_weights else 1
        super().__init__(inner // share, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., own inner) to (..., width)."""
        if not self._parallel.cuts_weights:
            return self.product(x, self.weight, self.bias)
        return self._parallel.sum(self.product(x, self.weight, None)) + self.bias

    def file_tensors(self, name: str) -> Iterator[tuple[str, FileTensor]]:
        """Names in a file and the pieces they are."""
        dim = 1 if self._parallel.cuts_weights else None
        start = self._parallel.rank * self.in_features if dim else 0
        yield f"{name}.weight", FileTensor(self.weight.data, "weight", dim, start)
        yield f"{name}.bias", FileTensor(self.bias.data, "bias")


class HeadsNorm(nn.Module):
    """RMSNorm with a weight over all heads jointly, of which this process may hold a share."""

    def __init__(self, inner: int, parallel: StreamParallel) -> None:
        super().__init__()
        self._parallel = parallel
        self._inner = inner
        share = parallel.degree if parallel.cuts_weights else 1
        self.weight = nn.Parameter(torch.ones(inner // share))

    @property
    def is_cut(self) -> bool:
        """Whether other processes hold the other heads, whose squares the norm needs."""
        return self._parallel.cuts_weights

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, tokens, own inner)."""
        if not self.is_cut:
            return rms_norm(x, self.weight)
        values = x.float()
        squares = self._parallel.sum(values.square().sum(dim=-1, keepdim=True))
        normed = values * torch.rsqrt(squares / self._inner + EPS)
        return (normed * self.weight).to(x.dtype)

    def file_tensors(self, name: str) -> Iterator[tuple[str, FileTensor]]:
        """Names in a file and the pieces they are."""
        dim = 0 if self._parallel.cuts_weights else None
        start = self._parallel.rank * len(self.weight) if dim == 0 else 0
        yield f"{name}.weight", FileTensor(self.weight.data, "weight", dim, start)


def file_tensors(model: nn.Module) -> Iterator[tuple[str, FileTensor]]:
    """Every tensor of `model` under its name in a file."""
    fused: set[str] = set()
    for path, module in model.named_modules():
        parent, _, name = path.rpartition(".")
        if isinstance(module, ColumnLinear):
            pieces, prefix = module.file_tensors(), f"{parent}."
        elif isinstance(module, RowLinear | HeadsNorm):
            pieces, prefix = module.file_tensors(name), f"{parent}."
        else:
            continue
        fused |= {f"{path}.weight", f"{path}.bias"}
        for piece, tensor in pieces:
            yield prefix + piece, tensor._replace(parameter=f"{path}.{tensor.parameter}")
    for path, parameter in model.named_parameters():
        if path not in fused:
            yield path, FileTensor(parameter.data, path)


def pack_for_streaming(model: nn.Module) -> None:
    """Lay the projections of `model` out in place as they are multiplied fastest where they are.

    On a CPU where oneDNN's products are faster (kernels/choice.py) they are packed: no second copy
    is kept, and the model can no longer be trained or written to a file. PrecisionError if its
    weights are to be trained.
    """
    for module in model.modules():
        if not isinstance(module, ColumnLinear | RowLinear) or not can_pack(module.weight):
            continue
        if choice_for(module.weight).linear == "packed":
            module.weight = nn.Parameter(pack_weight(module.weight), requires_grad=False)
