"""Where streams of a process are computed: on a GPU in seats that later streams take again.

A captured pass holds the addresses of its buffers and takes half a second to make, so a stream that
ends leaves its seat, buffers and graphs to the next. On a CPU nothing is captured: each stream has
a rollout of its own.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.streaming.block_latents import NOTHING
from omniforcing_model.streaming.passes import CapturedPasses, Passes
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.streaming.rollout import Rollout
from omniforcing_model.streaming.stream_batch import RowStream, StreamBatch
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.text_context import TextContext


class Stream(Protocol):
    """A stream of one prompt, block by block."""

    @property
    def block_index(self) -> int:
        """Of the next block."""
        ...

    @property
    def cache(self) -> RollingCache:
        """What its passes read and write; a seat's is there before and after it."""
        ...

    def next_block(self, *, given: PerStream[Tensor | None] = NOTHING) -> PerStream[Tensor]:
        """Clean latents of the next macro-block, as of `Rollout.next_block`."""
        ...

    def commit(self) -> None:
        """Write the last block's noise-free keys and values, if that is pending."""
        ...

    def force_block(self, latents: PerStream[Tensor]) -> None:
        """Take `latents` as the next block instead of denoising one."""
        ...

    def skip_to(self, block: int) -> None:
        """Let the next block be `block`, before which only the pinned ones are seen."""
        ...


class Seats:
    """Opens streams of one sealed model on one latent grid."""

    def __init__(
        self,
        model: DualStreamTransformer,
        grid: tuple[int, int],
        sigmas: Sequence[float],
        passes: type[Passes] | None = None,
        captures: bool = True,
    ) -> None:
        """No streams yet.

        Args:
            model: the student, both halves or one.
            grid: latent (height, width).
            sigmas: descending noise levels of the few denoising steps, without the final 0.
            passes: what captures the passes of a seat; by default CUDA graphs where both halves are
                on a GPU here, and nothing elsewhere: a pass that waits for another process is none.
            captures: whether to do so by default.
        """
        self._model, self._grid, self._sigmas = model, grid, sigmas
        self._passes = passes
        is_whole = len(list(model.halves.present())) == len(STREAMS)
        if passes is None and captures and model.device.type == "cuda" and is_whole:
            self._passes = CapturedPasses
        self._free: list[StreamBatch] = []
        self._taken: dict[RowStream, StreamBatch] = {}

    @property
    def are_captured(self) -> bool:
        """Whether each stream has a seat, with passes that are captured for it."""
        return self._passes is not None

    def open(self, text: TextContext, noise: BlockNoise) -> Stream:
        """Begin a stream of a prompt, `model.read_text(...)` of a batch of one."""
        if self._passes is None:
            return Rollout(self._model, text, self._grid, self._sigmas, noise)
        if not self._free:
            self._free.append(self._seat(self._passes))
        stream = self._free[-1].open(0, text, noise)
        self._taken[stream] = self._free.pop()
        return stream

    def is_seated(self, stream: Stream) -> bool:
        """Whether a stream has a seat, which keeps a copy of its text."""
        return stream in self._taken

    def leave(self, stream: Stream) -> None:
        """Free the seat of a stream that has ended."""
        if isinstance(stream, RowStream):
            stream.close()
            self._free.append(self._taken.pop(stream))

    def _seat(self, passes: type[Passes]) -> StreamBatch:
        return StreamBatch(self._model, self._grid, self._sigmas, passes=passes())
