"""Ranks of a process group that do one thing together; without a group a process is one alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed as dist

from omniforcing_model.errors import OmniForcingError

T = TypeVar("T")


class Rank(NamedTuple):
    """Which of how many ranks this process is."""

    number: int
    of: int


def own_rank() -> Rank:
    """That of this process in its process group."""
    if not dist.is_initialized():
        return Rank(0, 1)
    return Rank(dist.get_rank(), dist.get_world_size())


def backend_of(device: str) -> str:
    """What moves tensors between ranks whose tensors are on `device`."""
    return "gloo" if torch.device(device).type == "cpu" else "nccl"


def any_rank(says: bool, device: str) -> bool:
    """Whether one of the ranks says so; all ask at the same time, and hear the same.

    `device`: one that the process group knows.
    """
    if not dist.is_initialized():
        return says
    said = torch.tensor([float(says)], device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said)


@contextmanager
def raised_by_all() -> Iterator[None]:
    """Raise on every rank an error of ours that one of them meets in this block, in which they do
    not wait for each other: they would wait for that one for ever."""
    error: OmniForcingError | None = None
    try:
        yield
    except OmniForcingError as own:
        error = own
    errors: list[OmniForcingError | None] = [error]
    if own_rank().of > 1:
        errors *= own_rank().of
        dist.all_gather_object(errors, error)
    if (first := next(filter(None, errors), None)) is not None:
        raise first


def gathered(own: T) -> list[T]:
    """What the ranks give, in their order, on the first one; nothing on the others."""
    rank = own_rank()
    if rank.of == 1:
        return [own]
    values: list[Any] | None = [None] * rank.of if rank.number == 0 else None
    dist.gather_object(own, values)
    return values or []
