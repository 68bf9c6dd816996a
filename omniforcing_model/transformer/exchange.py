"""The one exchange per layer between the two streams (paper section 3.4, our reading).

Both cross-modal attentions read the states before either update. So the audio stream sends its
audio-to-video keys and values together with its video-to-audio queries, and the video stream, which
holds both cross-modal caches, returns what those queries attended to: two small messages a layer
instead of the video's keys and values.

Where one process holds both streams it is a function call (`layer_of_both`), between processes a
send and a receive around the same segments of a layer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omniforcing_model.errors import ExchangeError
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.attention_view import Pathway
from omniforcing_model.transformer.stream_layer import CrossMessage, Pass, Residual, StreamLayer
from omniforcing_model.transformer.stream_parallel import StreamParallel

R = TypeVar("R")

CROSS_MODAL: tuple[Pathway, Pathway] = ("audio_to_video", "video_to_audio")


class Exchange(Protocol):
    """Reaches the half of the model that this process does not hold, once per layer."""

    def ask(self, message: CrossMessage) -> Tensor:
        """The audio half's call: what its queries attended to in the video half."""
        ...

    def hear(self, like: Tensor) -> CrossMessage:
        """The video half's first call: the audio half's message, whose parts are like `like`."""
        ...

    def answer(self, attended: Tensor) -> None:
        """The video half's second call: what the message's queries attended to."""
        ...


class AudioLane:
    """Where the audio stream's work is queued: beside the video stream's on a GPU, after it else.

    The audio half is a few percent of a pass but as many kernels, so on a GPU it runs on a CUDA
    stream of its own between two exchanges.
    """

    def __init__(self, device: torch.device) -> None:
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, work: Callable[[], R], *inputs: Tensor) -> R:
        """Queue `work`, which reads these inputs, after what the video stream has queued so far
        and beside what it will."""
        if self._side is None:
            return work()
        self._side.wait_stream(torch.cuda.current_stream(self._side.device))
        for tensor in inputs:
            tensor.record_stream(self._side)
        with torch.cuda.stream(self._side):
            return work()

    def join(self, *results: Tensor) -> None:
        """Let the video stream go on after the lane's work, which computed these results."""
        if self._side is None:
            return
        current = torch.cuda.current_stream(self._side.device)
        current.wait_stream(self._side)
        for tensor in results:
            tensor.record_stream(current)


class BothLayers(NamedTuple):
    """A layer of both streams in one process."""

    video: StreamLayer
    audio: StreamLayer


def layer_of_both(
    layers: BothLayers, states: PerStream[Residual], runs: PerStream[Pass], lane: AudioLane
) -> PerStream[Residual]:
    """One layer of both streams: a function of tensors, which training may checkpoint."""
    index, view = layers.video.index, runs.video.view
    to_video, to_audio = (view.slot(path, index) for path in CROSS_MODAL)
    sound = lane.run(lambda: layers.audio.before(states.audio, runs.audio, to_video))
    picture = layers.video.before(states.video, runs.video, to_audio)
    lane.join(*sound.cross)
    isolate = runs.video.perturbation.isolate
    answer = None if isolate else layers.video.answer(picture, sound.cross, runs.video)
    read = () if answer is None else (answer,)
    audio = lane.run(lambda: layers.audio.after(sound, answer, runs.audio), *read)
    heard = None if isolate else layers.video.hear(picture, sound.cross, runs.video)
    return PerStream(layers.video.after(picture, heard, runs.video), audio)


RunLayer = Callable[
    [BothLayers, PerStream[Residual], PerStream[Pass], AudioLane], PerStream[Residual]
]


class LayerOfBoth(nn.Module):
    """A layer of both streams as one module: what training gathers, and recomputes, at a time.

    It recomputes within: hooks around the module gather its weights before its gradients are taken,
    and let them go after that, however often it is computed in between.
    """

    def __init__(self, layers: BothLayers, recomputes: bool = False) -> None:
        """recomputes: keep the inputs alone for the backward pass, and run it again there."""
        super().__init__()
        self.video, self.audio = layers
        self._recomputes = recomputes

    def run(
        self, states: PerStream[Residual], runs: PerStream[Pass], lane: AudioLane
    ) -> PerStream[Residual]:
        """As `layer_of_both`, through the module's hooks."""
        flat = [tensor for state in states for tensor in state.parts()]
        return _states(self(*flat, runs=runs, lane=lane))

    def forward(
        self, *states: Tensor, runs: PerStream[Pass], lane: AudioLane
    ) -> tuple[Tensor, ...]:
        """As `layer_of_both`; the residuals' parts stand one after the other: hooks see tensors
        that a module takes and returns, and no further."""
        layers = BothLayers(self.video, self.audio)

        def compute(*flat: Tensor) -> tuple[Tensor, ...]:
            after = layer_of_both(layers, _states(flat), runs, lane)
            return tuple(tensor for state in after for tensor in state.parts())

        if not (self._recomputes and torch.is_grad_enabled()):
            return compute(*states)
        again: tuple[Tensor, ...] = checkpoint(
            compute, *states, use_reentrant=False, preserve_rng_state=False
        )
        return again


def _states(flat: Sequence[Tensor]) -> PerStream[Residual]:
    each = len(flat) // len(STREAMS)
    return PerStream(Residual.of(*flat[:each]), Residual.of(*flat[each:]))


def peers_by_heads(
    own: StreamParallel, other_degree: int, first_rank: int, heads: int
) -> dict[int, slice]:
    """Which of this process's heads each process of the other stream holds too.

    Args:
        own: this process's place in its own stream.
        other_degree: processes of the other stream.
        first_rank: rank of the first of them.
        heads: cross-modal attention heads in all.
    """
    mine = range(heads)[own.heads(heads)]
    peers = {}
    for rank in range(other_degree):
        theirs = range(heads)[StreamParallel(degree=other_degree, rank=rank).heads(heads)]
        first, last = max(mine.start, theirs.start), min(mine.stop, theirs.stop)
        if first < last:
            peers[first_rank + rank] = slice(first - mine.start, last - mine.start)
    return peers


class DistributedExchange:
    """Point-to-point messages of torch.distributed, over the backend of the group."""

    def __init__(self, group: dist.ProcessGroup | None, peers: int | Mapping[int, slice]) -> None:
        """Reach the other half.

        Args:
            group: the process group; None is the default one.
            peers: the other half's rank in `group`, or of each of its processes with the heads of
                this process that it holds too (`peers_by_heads`).
        """
        self._group = group
        self._peers = {peers: slice(None)} if isinstance(peers, int) else dict(peers)

    def ask(self, message: CrossMessage) -> Tensor:
        """Send a message and wait for its answer."""
        stacked = torch.stack(message)
        for rank, heads in self._peers.items():
            self._send(rank, stacked[:, :, heads])
        answer = torch.empty_like(stacked[0])
        for rank, heads in self._peers.items():
            answer[:, heads] = self._receive(rank, answer[:, heads])
        return answer

    def hear(self, like: Tensor) -> CrossMessage:
        """Wait for a message."""
        buffer = like.new_empty((3, *like.shape))
        for rank, heads in self._peers.items():
            buffer[:, :, heads] = self._receive(rank, buffer[:, :, heads])
        return CrossMessage(buffer[0], buffer[1], buffer[2])

    def answer(self, attended: Tensor) -> None:
        """Send the answer to the last message."""
        for rank, heads in self._peers.items():
            self._send(rank, attended[:, heads])

    def _send(self, rank: int, tensor: Tensor) -> None:
        try:
            dist.send(tensor.contiguous(), group=self._group, group_dst=rank)
        except RuntimeError as error:
            raise _lost_partner(rank, error) from error

    def _receive(self, rank: int, like: Tensor) -> Tensor:
        buffer = torch.empty_like(like, memory_format=torch.contiguous_format)
        try:
            dist.recv(buffer, group=self._group, group_src=rank)
        except RuntimeError as error:
            raise _lost_partner(rank, error) from error
        return buffer


def _lost_partner(rank: int, error: RuntimeError) -> ExchangeError:
    return ExchangeError(
        f"expected an answer of the other stream (rank {rank}), got:"
        f" {failure_reason(error)}; the session ends and the pair is formed anew"
    )


def failure_reason(error: RuntimeError) -> str:
    """The first sentence of an error of torch.distributed, without the place in its source."""
    sentence = str(error).split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0]
    return re.sub(r"^\[\S+:\d+\] ", "", sentence)
