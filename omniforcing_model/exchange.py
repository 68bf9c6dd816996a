"""The one exchange per layer between the two streams (paper section 3.4, our reading).

Both cross-modal attentions read the states before either update. So the audio stream sends its
audio-to-video keys and values together with its video-to-audio queries, and the video stream, which
holds both cross-modal caches, returns what those queries attended to: two small messages a layer
instead of the video's keys and values.

Each stream runs as a generator that stops where it needs the other; whoever drives the generators
decides whether the message is a function call or a transfer between processes.
"""

import re
from collections.abc import Generator
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from omniforcing_model.errors import ExchangeError


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


def drive_together(video: VideoRun, audio: AudioRun) -> tuple[Tensor, Tensor]:
    """Run both streams in one process; returns the (video, audio) velocities."""
    next(video)
    message = next(audio)
    outputs: list[Tensor] = []
    while not outputs:
        answer = video.send(message)
        assert answer is not None
        try:
            message = audio.send(answer)
        except StopIteration as stop:
            outputs.append(stop.value)
        try:
            next(video)
        except StopIteration as stop:
            outputs.insert(0, stop.value)
    return outputs[0], outputs[1]


class DistributedExchange:
    """Point-to-point over torch.distributed: gloo between CPU processes, NCCL between GPUs."""

    def __init__(self, group: dist.ProcessGroup | None, peer: int) -> None:
        """`peer` is the other half's rank in `group` (None: the default group)."""
        self._group = group
        self._peer = peer

    def drive_video(self, run: VideoRun, message_like: Tensor) -> Tensor:
        """Answer the audio stream's messages, one per layer."""
        next(run)
        while True:
            buffer = message_like.new_empty((3, *message_like.shape))
            self._receive(buffer)
            answer = run.send(CrossMessage(buffer[0], buffer[1], buffer[2]))
            assert answer is not None
            self._send(answer)
            try:
                next(run)
            except StopIteration as stop:
                velocity: Tensor = stop.value
                return velocity

    def drive_audio(self, run: AudioRun) -> Tensor:
        """Send a message per layer and wait for its answer."""
        message = next(run)
        while True:
            self._send(torch.stack(message))
            answer = torch.empty_like(message.queries)
            self._receive(answer)
            try:
                message = run.send(answer)
            except StopIteration as stop:
                velocity: Tensor = stop.value
                return velocity

    def _send(self, tensor: Tensor) -> None:
        try:
            dist.send(tensor.contiguous(), group=self._group, group_dst=self._peer)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _receive(self, buffer: Tensor) -> None:
        try:
            dist.recv(buffer, group=self._group, group_src=self._peer)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> ExchangeError:
        return ExchangeError(
            f"expected an answer of the other stream (rank {self._peer}), got:"
            f" {what_failed(error)}; the session ends and the pair is formed anew"
        )


def what_failed(error: RuntimeError) -> str:
    """The first sentence of an error of torch.distributed, without the place in its source."""
    sentence = str(error).split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0]
    return re.sub(r"^\[\S+:\d+\] ", "", sentence)
