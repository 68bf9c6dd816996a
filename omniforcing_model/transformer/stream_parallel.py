"""One stream over several processes: tensor parallel (heads) or sequence parallel (tokens).

Both compute attention on a share of the heads, so caches and the exchange between the streams see
heads only. `tensor` cuts the weights too: every projection holds its heads' rows, and the outputs
are summed. `sequence` (Ulysses) keeps all weights and gives each process a share of the tokens; an
all-to-all turns token shares into head shares before each attention and back after it. Tensor
parallelism saves memory, sequence parallelism saves time.

Inference only: the collectives carry no gradients.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from omniforcing_model.errors import ShapeError
from omniforcing_model.per_stream import PerStream


@dataclass(frozen=True)
class StreamParallel:
    """This process's place among the `degree` processes of a stream."""

    kind: Literal["tensor", "sequence"] = "tensor"
    degree: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def cuts_weights(self) -> bool:
        """Whether this process holds a share of the weights only."""
        return self.kind == "tensor" and self.degree > 1

    @property
    def cuts_tokens(self) -> bool:
        """Whether this process holds a share of the tokens only."""
        return self.kind == "sequence" and self.degree > 1

    def heads(self, heads: int) -> slice:
        """The heads that this process attends with; ShapeError unless they divide evenly."""
        return self._share(heads, "attention heads")

    def projected_heads(self, heads: int) -> slice:
        """The heads that this process's projections make: all of them unless weights are cut."""
        return self._share(heads, "attention heads") if self.cuts_weights else slice(None)

    def tokens(self, tokens: int) -> slice:
        """The tokens that this process projects: all of them unless tokens are cut."""
        return self._share(tokens, "tokens of a pass") if self.cuts_tokens else slice(None)

    def _share(self, count: int, what: str) -> slice:
        if self.degree == 1:
            return slice(None)
        if count % self.degree:
            raise ShapeError(
                f"expected {what} that divide by the degree, got {count} for {self.degree}"
                " processes; choose a degree that divides them"
            )
        each = count // self.degree
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of every process's `partial` where weights are cut."""
        if self.cuts_weights:
            partial = partial.contiguous()
            dist.all_reduce(partial, group=self.group)
        return partial

    def to_heads(self, *by_token: Tensor) -> tuple[Tensor, ...]:
        """(batch, all heads, own tokens, head_dim) each -> (batch, own heads, all tokens, ...)."""
        if not self.cuts_tokens:
            return by_token
        stacked = torch.stack(by_token)
        sent = torch.stack(stacked.chunk(self.degree, dim=2))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        return torch.cat(received.unbind(), dim=3).unbind()

    def to_tokens(self, by_head: Tensor) -> Tensor:
        """(batch, own heads, all tokens, head_dim) -> (batch, all heads, own tokens, head_dim)."""
        if not self.cuts_tokens:
            return by_head
        sent = torch.stack(by_head.chunk(self.degree, dim=2))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        return torch.cat(received.unbind(), dim=1)

    def gather_tokens(self, own: Tensor) -> Tensor:
        """(batch, own tokens, channels) -> (batch, all tokens, channels)."""
        if not self.cuts_tokens:
            return own
        parts = [torch.empty_like(own) for _ in range(self.degree)]
        dist.all_gather(parts, own.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)


WHOLE = StreamParallel()
UNSPLIT: PerStream[StreamParallel] = PerStream(WHOLE, WHOLE)
