"""When the phases of a training step begin and end, and the most memory that each of them held.

Phases go by the plan's names. Passes tell them: who runs, whether with gradients, and in whose
turn.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from infra.stages import CRITIC, GENERATOR
from omniforcing_model.distillation.trained_transformer import TrainedTransformer
from pipelines.benchmarks.machine.device import stopwatch_of
from pipelines.planning.live_tensors import LiveTensors

ROLLOUT, SCORES, UPDATE = "rollout", "scores", "update"


class MemoryMeter(Protocol):
    """Bytes that tensors hold."""

    def live(self) -> float:
        """Now."""
        ...

    def take_peak(self) -> float:
        """The most since this was last asked for."""
        ...

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Where it counts what is made."""
        ...


class AllocatorMeter:
    """A GPU's, as PyTorch's allocator knows it; it counts always and takes no time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def live(self) -> float:
        """Now."""
        return float(torch.cuda.memory_allocated(self._device))

    def take_peak(self) -> float:
        """The most since this was last asked for."""
        peak = float(torch.cuda.max_memory_allocated(self._device))
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Everywhere."""
        yield


class TensorMeter:
    """A CPU's: every operator is looked at, which takes more time than small operators do."""

    def __init__(self) -> None:
        self._tensors = LiveTensors()

    def live(self) -> float:
        """Now."""
        return float(self._tensors.live)

    def take_peak(self) -> float:
        """The most since this was last asked for."""
        peak, self._tensors.peak = float(self._tensors.peak), self._tensors.live
        return peak

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Where it counts what is made."""
        with self._tensors:
            yield


def meter_of(device: torch.device) -> MemoryMeter:
    """What counts bytes on `device`."""
    return AllocatorMeter(device) if device.type == "cuda" else TensorMeter()


class Stretch(NamedTuple):
    """Of a step: whose turn it was, the phase, and the seconds that it took."""

    turn: str
    phase: str
    seconds: float


class StepWatch:
    """Follows a worker's steps. `peaks`: most bytes by phase, beyond those at first."""

    def __init__(self, device: torch.device) -> None:
        """Count from here on."""
        self.meter = meter_of(device)
        self.peaks: dict[str, float] = {}
        self._stopwatch = stopwatch_of(device)
        self.meter.take_peak()
        self._first = self.meter.live()
        self._marks: list[tuple[str, str, Any]] = []
        self._turn = self._phase = ""

    def follow(self, modules: Mapping[str, TrainedTransformer]) -> None:
        """See the passes of these roles."""
        for role, module in modules.items():
            module.register_forward_pre_hook(lambda *_, role=role: self._passes(role), prepend=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase that is no part of a step."""
        self._leave()
        with self.meter.counting():
            yield
        self._note(name)

    def begin_turn(self, role: str) -> None:
        """The turn of a role begins; its first pass says with which phase."""
        self._leave()
        self._turn, self._phase = role, ""

    def begin_update(self) -> None:
        """The gradients of a turn have been taken."""
        self._enter(UPDATE)

    def end_step(self) -> list[Stretch]:
        """What the step's stretches took, in their order; waits for the device."""
        self._leave()
        self._phase = ""
        marks, self._marks = self._marks, []
        ends = [*(mark for _, _, mark in marks[1:]), self._stopwatch.mark()]
        return [
            Stretch(turn, phase, self._stopwatch.seconds(began, ended))
            for (turn, phase, began), ended in zip(marks, ends, strict=True)
        ]

    def _passes(self, role: str) -> None:
        phase = phase_of(self._turn, role, torch.is_grad_enabled(), self._phase)
        if phase != self._phase:
            self._enter(phase)

    def _enter(self, phase: str) -> None:
        self._leave()
        self._marks.append((self._turn, phase, self._stopwatch.mark()))
        self._phase = phase

    def _leave(self) -> None:
        if self._phase:
            self._note(self._phase)
        else:  # what was between phases is of none
            self.meter.take_peak()

    def _note(self, phase: str) -> None:
        peak = self.meter.take_peak() - self._first
        self.peaks[phase] = max(self.peaks.get(phase, 0.0), peak)


def phase_of(turn: str, role: str, has_gradients: bool, present: str) -> str:
    """The phase of a pass.

    Args:
        turn: the role that learns.
        role: whose pass it is.
        has_gradients: whether it keeps what a backward pass needs.
        present: the phase so far.
    """
    if turn == CRITIC:
        return CRITIC if role == CRITIC else ROLLOUT
    # A generator that keeps activations is scored meanwhile, and commits blocks in between.
    if present == GENERATOR or (role == GENERATOR and has_gradients):
        return GENERATOR
    return ROLLOUT if role == GENERATOR else SCORES
