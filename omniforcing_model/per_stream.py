"""A value for the video stream and one for the audio stream: one code path for two streams."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

STREAMS = ("video", "audio")


class PerStream(NamedTuple, Generic[T]):
    """One `T` for each modality.

    A replica that holds only one half of the model carries `None` in the other place; `map`
    leaves such a hole as it is, so the same rollout drives both halves or one of them.
    """

    video: T
    audio: T

    def map(self, function: Callable[..., R], *others: "PerStream[Any]") -> "PerStream[R]":
        """Apply `function` to the video values, then to the audio values; holes stay holes."""
        pairs = zip(self, *others, strict=True)
        results = [None if values[0] is None else function(*values) for values in pairs]
        return PerStream(*results)  # type: ignore[arg-type]  # a hole is a hole in both

    def present(self) -> Iterator[tuple[str, T]]:
        """Yield ("video", value) and ("audio", value), without the holes."""
        return (
            (name, value) for name, value in zip(STREAMS, self, strict=True) if value is not None
        )
