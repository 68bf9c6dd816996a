"""The one exchange per layer between the two streams (paper section 3.4, our reading).

Both cross-modal attentions read the states before either update. So the audio stream sends its
audio-to-video keys and values together with its video-to-audio queries, and the video stream, which
holds both cross-modal caches, returns what those queries attended to: two small messages a layer
instead of the video's keys and values.

Each stream runs as a generator that stops where it needs the other; whoever drives the generators
decides whether the message is a function call or a transfer between processes.
"""

import re
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from omniforcing_model.errors import ExchangeError
from omniforcing_model.transformer.stream_parallel import StreamParallel

R = TypeVar("R")


class CrossMessage(NamedTuple):
    """From audio to video, per layer: (batch, heads, audio tokens, head_dim) each."""

    keys: Tensor
    values: Tensor
    queries: Tensor


# The video stream waits for a message (yields None), then yields the answer to it.
VideoRun = Generator[Tensor | None, CrossMessage | None, Tensor]
# The audio stream yields a message and waits for the answer.
AudioRun = Generator[CrossMessage, Tensor, Tensor]


class Exchange(Protocol):
    """Drives the half of the model that this process holds, against the other half elsewhere."""

    def drive_video(self, run: VideoRun, message_like: Tensor) -> Tensor:
        """Run the video stream to its velocity; `message_like` has a message part's shape."""
        ...

    def drive_audio(self, run: AudioRun) -> Tensor:
        """Run the audio stream to its velocity."""
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


def drive_together(video: VideoRun, audio: AudioRun, lane: AudioLane) -> tuple[Tensor, Tensor]:
    """Run both streams in one process; returns the (video, audio) velocities."""
    step: Callable[[], CrossMessage] = partial(next, audio)
    inputs: tuple[Tensor, ...] = ()
    velocity: Tensor | None = None
    while True:
        try:
            message: CrossMessage = lane.run(step, *inputs)
        except StopIteration as stop:
            velocity = stop.value
        try:
            next(video)
        except StopIteration as stop:
            assert velocity is not None
            lane.join(velocity)
            return stop.value, velocity
        lane.join(*message)
        answer = video.send(message)
        assert answer is not None
        step, inputs = partial(audio.send, answer), (answer,)


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

    def drive_video(self, run: VideoRun, message_like: Tensor) -> Tensor:
        """Answer the audio stream's messages, one per layer."""
        next(run)
        while True:
            buffer = message_like.new_empty((3, *message_like.shape))
            for rank, heads in self._peers.items():
                buffer[:, :, heads] = self._receive(rank, buffer[:, :, heads])
            answer = run.send(CrossMessage(buffer[0], buffer[1], buffer[2]))
            assert answer is not None
            for rank, heads in self._peers.items():
                self._send(rank, answer[:, heads])
            try:
                next(run)
            except StopIteration as stop:
                velocity: Tensor = stop.value
                return velocity

    def drive_audio(self, run: AudioRun) -> Tensor:
        """Send a message per layer and wait for its answer."""
        message = next(run)
        while True:
            stacked = torch.stack(message)
            for rank, heads in self._peers.items():
                self._send(rank, stacked[:, :, heads])
            answer = torch.empty_like(stacked[2])
            for rank, heads in self._peers.items():
                answer[:, heads] = self._receive(rank, answer[:, heads])
            try:
                message = run.send(answer)
            except StopIteration as stop:
                velocity: Tensor = stop.value
                return velocity

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
