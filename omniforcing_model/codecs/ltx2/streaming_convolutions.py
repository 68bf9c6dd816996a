"""What the convolutions of one stream remember, so that chunks join without a seam.

A convolution in time needs rows before the first of a chunk. A whole clip has them at hand; a
stream keeps them here, per convolution and outside it: the modules stay as diffusers built them,
and one codec decodes any number of streams at a time.
"""

from torch import Tensor, cat, nn


class ConvolutionMemory:
    """The rows before the next chunk, for every convolution of one stream. Time is axis 2."""

    def __init__(self) -> None:
        self._rows: dict[nn.Module, Tensor] = {}

    def extend(self, convolution: nn.Module, chunk: Tensor, start: Tensor, consumed: int) -> Tensor:
        """Put the rows that precede `chunk` in front of it, and remember those before the next.

        Args:
            convolution: whose input this is.
            chunk: (batch, channels, rows, ...).
            start: (batch, channels, n, ...), the n rows before the very first chunk.
            consumed: rows of `chunk` that do not come again; the next chunk starts after them.

        Returns (batch, channels, n + rows, ...).
        """
        extended = cat((self._rows.get(convolution, start), chunk), 2)
        # A copy: a view would keep the whole chunk alive.
        self._rows[convolution] = extended[:, :, consumed : consumed + start.shape[2]].clone()
        return extended
