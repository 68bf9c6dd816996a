"""The same stream from this checkout's sources and from another's, block by block in turn.

Each is a process of its own on the same random weights; while one computes, the other waits for its
turn: the machine's noise meets both alike.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from actors.streaming.machine_kernels import kernels_name, measure_and_take_kernels
from infra.config import RunConfig
from infra.errors import ConfigError
from infra.machine import machine_facts
from infra.records import Record
from infra.runs.provenance import code_commit
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.machine.device import DTYPES, DtypeName
from pipelines.benchmarks.model.steady import SteadyBlocks

PROGRAM = Path(__file__).with_name("block_timer.py")
OURS = Path(__file__).resolve().parents[3]
ON_CPU: tuple[DtypeName, ...] = ("float32", "bfloat16")


class BlockTime(NamedTuple):
    """Seconds of a block, by the clock and of the processor."""

    clock: float
    processor: float


class AgainstRow(Record):
    """Medians over the blocks whose window is full, in seconds.

    `faster`: the other's median over ours; `faster_by_processor_time`: the same of what the
    processor spent, which other processes change less.
    """

    seconds: int
    dtype: str
    threads: int
    block_s: float
    other_block_s: float
    faster: float
    faster_by_processor_time: float


class Against(Record):
    """This checkout's blocks beside another's."""

    config: str
    processor: str
    commit: str
    other_commit: str
    kernels: dict[str, str]
    rows: tuple[AgainstRow, ...]


class Contestant:
    """A process that streams from the sources in `folder`."""

    def __init__(self, folder: Path, preset: str, dtype: DtypeName, threads: int) -> None:
        """ConfigError if it cannot."""
        self._folder = folder
        self._process = subprocess.Popen(
            # -P: nothing is imported from where the program lies.
            [sys.executable, "-P", str(PROGRAM), preset, dtype, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
        self._answer()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def next_block(self) -> BlockTime:
        """Let it compute a block."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return BlockTime(*json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            self._process.communicate()
            raise ConfigError(
                f"expected sources in {self._folder} that stream random weights, got a process that"
                " ended; its error is above"
            )
        return answer


def bench_against(
    config: RunConfig,
    folder: Path,
    seconds: Sequence[int],
    threads: Sequence[int],
    advance: Callable[[], None],
) -> Against:
    """Both dtypes of a preset on a CPU; `advance` is called per pair of blocks.

    Args:
        config: the preset. Only its name counts: the other checkout has values of its own.
        folder: the other checkout.
        seconds: lengths that are reported, of one stream.
        threads: of PyTorch, one after the other.
        advance: called when both have computed a block.
    """
    if not (folder / "omniforcing_model").is_dir():
        raise ConfigError(
            f"expected a checkout of these sources, got {folder}; make one with git worktree add"
        )
    kernels = measure_and_take_kernels(config.sampling.student_kernels)
    layout, rows = BlockLayout(config.model.layout), []
    for dtype, count in product(ON_CPU, threads):
        with ExitStack() as stack:
            ours, other = (
                stack.enter_context(Contestant(at, config.name, dtype, count))
                for at in (OURS, folder.resolve())
            )
            times: list[tuple[BlockTime, BlockTime]] = []
            for _ in range(layout.blocks_for_seconds(max(seconds))):
                times.append((ours.next_block(), other.next_block()))
                advance()
        for length in seconds:
            part = times[: layout.blocks_for_seconds(length)]
            steady = SteadyBlocks(len(part), config.model.layout.full_from).of(part)
            rows.append(row_of(length, dtype, count, steady))
    return Against(
        config=config.name,
        processor=machine_facts()["processor"],
        commit=code_commit(),
        other_commit=code_commit(folder.resolve()),
        kernels={name: kernels_name(kernels, DTYPES[name]) for name in ON_CPU},
        rows=tuple(rows),
    )


def row_of(
    seconds: int, dtype: str, threads: int, times: Sequence[tuple[BlockTime, BlockTime]]
) -> AgainstRow:
    """Medians of pairs of blocks, ours first."""
    ours, other = zip(*times, strict=True)
    block_s, other_s = (statistics.median(one.clock for one in ones) for ones in (ours, other))
    worked, other_worked = (
        statistics.median(one.processor for one in ones) for ones in (ours, other)
    )
    return AgainstRow(
        seconds=seconds,
        dtype=dtype,
        threads=threads,
        block_s=block_s,
        other_block_s=other_s,
        faster=other_s / block_s,
        faster_by_processor_time=other_worked / worked,
    )
