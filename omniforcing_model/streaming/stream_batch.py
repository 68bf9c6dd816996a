"""Streams that may share passes: each a row of a batch, at a block and a step of its own.

A row computes what a `Rollout` alone computes, whatever the other rows do: they may be at other
blocks, at rest, or gone. All passes are of few kinds and fixed shapes (passes.py), so rows come and
go without a new graph.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from omniforcing_model.errors import StreamStateError
from omniforcing_model.flow_matching import add_noise
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.block_latents import NOTHING, BlockLatents, both_of
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.passes import Passes, PassInputs, PassKind, passes_for
from omniforcing_model.streaming.rolling_cache import RollingCache
from omniforcing_model.streaming.rows_view import RowPlaces, RowsView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.text_context import TextContext, TextRows


@dataclass
class _Row:
    """A stream's place: at which step of which block, and the latents its next pass begins with."""

    noise: BlockNoise
    block: int = 0
    step: int = 0
    latents: PerStream[Tensor] | None = None
    given: PerStream[Tensor | None] = NOTHING

    def level(self, commit: int) -> PerStream[int]:
        """Index of each stream's sigma in the next pass: what is given has none, as in `commit`."""
        return PerStream(*(self.step if given is None else commit for given in self.given))


class StreamBatch:
    """`rows` streams of one model on one latent grid."""

    def __init__(
        self,
        model: DualStreamTransformer,
        grid: tuple[int, int],
        sigmas: Sequence[float],
        rows: int = 1,
        passes: Passes | None = None,
    ) -> None:
        """A batch without streams.

        Args:
            model: the student, both halves or one; its weights are final.
            grid: latent (height, width).
            sigmas: descending noise levels of the few denoising steps, without the final 0.
            rows: streams at most.
            passes: who runs them; by default as is best where the model is.
        """
        self._model = model
        self._latents = BlockLatents(model, grid)
        self._sigmas = tuple(sigmas)
        self._table = model.level_table((*self._sigmas, 0.0))
        self._levels = torch.arange(len(self._sigmas) + 1, device=model.device)
        self._commit = len(self._sigmas)  # the step that commits a block, at the last level
        self._passes = passes or passes_for(model.device)
        self.cache = RollingCache.of(model, grid, rows)
        self._places = RowPlaces(self.cache)
        self._kinds: dict[tuple[str, int, int], PassKind] = {}
        self._text: TextContext | None = None
        self._rows: list[_Row | None] = [None] * rows

    def open(self, row: int, text: TextContext, noise: BlockNoise) -> "RowStream":
        """Begin a stream in a row.

        Args:
            row: one without a stream.
            text: `model.read_text(...)` of its prompt, a batch of one.
            noise: where its noise comes from.

        Raises:
            StreamStateError: the row has a stream.
            ShapeError: another number of text tokens than the batch was opened with.
        """
        if self._rows[row] is not None:
            raise StreamStateError(
                f"expected a free row, got row {row}, which has a stream; close that first"
            )
        self.use_text(row, text)
        self.cache.forget(row)
        self._places.leave(row)
        self._rows[row] = _Row(noise)
        return RowStream(self, row)

    def use_text(self, row: int, text: TextContext) -> None:
        """Let a row's next passes read another prompt."""
        levels = [self._model.level_of(PerStream(s, s)) for s in (*self._sigmas, 0.0)]
        by_stream = PerStream(*zip(*(level.modulation for level in levels), strict=True))
        layers, rows = self._model.config.layers, len(self._rows)
        if self._text is None:
            empty = text.streams.map(
                lambda own, of_level: TextRows.like(own, layers, rows, of_level), by_stream
            )
            self._text = TextContext(PerStream(*empty))
        for kept, own, of_level in zip(self._text.streams, text.streams, by_stream, strict=True):
            if isinstance(kept, TextRows):
                kept.put(row, own, of_level)

    def close(self, row: int) -> None:
        """Forget a row's stream."""
        self._rows[row] = None
        self._places.leave(row)

    @torch.no_grad()
    def step(self, rows: Collection[int]) -> dict[int, PerStream[Tensor]]:
        """Let `rows` take their next step, in one pass but for rows at block 0.

        A block has a step per sigma and one that commits it. Returns the clean latents, float32,
        of rows that have just denoised a block.
        """
        done: dict[int, PerStream[Tensor]] = {}
        first = [row for row in rows if self._of(row).block == 0]
        for row in first:
            part = slice(row, row + 1)
            kind = self._kind("first", part, partial(CachedView, self.cache, 0, row))
            done |= self._advance(kind, part, [row])
        later = [row for row in rows if row not in first]
        if later:
            part = slice(0, len(self._rows))
            if len(later) == 1:
                part = slice(later[0], later[0] + 1)
            self._place(part)
            masked = not self._places.is_full(part)
            kind = self._kind(
                "filling" if masked else "full",
                part,
                lambda: RowsView(self._places, part, masked),
            )
            done |= self._advance(kind, part, later)
        return done

    def force(self, row: int, latents: PerStream[Tensor]) -> None:
        """Take `latents` (1, ...) as a row's next block: its next step commits them.

        Raises:
            ShapeError: they are not latents of the row's next block.
        """
        state = self._of(row)
        self._latents.check(latents, state.block)
        state.latents, state.step = latents, self._commit

    def skip_to(self, row: int, block: int) -> None:
        """Let a row's next block be `block`, before which only the pinned ones are seen."""
        self.cache.begin_ring(block, row)
        self._of(row).block = block

    def give(self, row: int, latents: PerStream[Tensor | None]) -> None:
        """Clean latents of one stream of a row's next block, beside which the other is denoised.

        Raises:
            ShapeError: they are not latents of the row's next block.
        """
        state = self._of(row)
        self._latents.check(latents, state.block)
        state.given = latents

    def is_committed(self, row: int) -> bool:
        """Whether a row's last block is in its cache."""
        return self._of(row).step != self._commit

    def _place(self, part: slice) -> None:
        for row in range(part.start, part.stop):
            state = self._rows[row]
            if state is None or state.block == 0:
                self._places.leave(row)
            else:
                self._places.move(row, state.block)

    def _of(self, row: int) -> _Row:
        state = self._rows[row]
        if state is None:
            raise StreamStateError(f"expected a row with a stream, got row {row}; open one in it")
        return state

    def _kind(self, what: str, rows: slice, view: Callable[[], CachedView | RowsView]) -> PassKind:
        """Passes of one kind over some rows: what they read is put together once."""
        name = (what, rows.start, rows.stop)
        if name not in self._kinds:
            assert self._text is not None, "a row has a stream"
            text = TextContext(self._text.streams.map(lambda own: own.part(rows)))
            self._kinds[name] = PassKind(name, self._model, self._table, text, view())
        return self._kinds[name]

    def _advance(
        self, kind: PassKind, part: slice, moving: Collection[int]
    ) -> dict[int, PerStream[Tensor]]:
        clean = self._passes(kind, self._gathered(part, moving))
        done: dict[int, PerStream[Tensor]] = {}
        for row in moving:
            state, at = self._of(row), row - part.start
            own = clean.map(lambda x, at=at: x[at : at + 1])
            if state.step == self._commit:
                state.block, state.step, state.latents = state.block + 1, 0, None
                state.given = NOTHING
            elif state.step == self._commit - 1:
                # The next pass may overwrite what this one returned.
                done[row] = state.latents = own.map(torch.clone)
                state.step += 1
            else:
                state.step += 1
                state.latents = self._renoised(own, state)
        return done

    def _gathered(self, part: slice, moving: Collection[int]) -> PassInputs:
        """Latents and levels of the rows of a pass; one at rest gets another's, at sigma 0."""
        states = {row: self._of(row) for row in moving}
        latents = {row: self._next_latents(state) for row, state in states.items()}
        some = next(iter(latents.values()))
        rows = range(part.start, part.stop)
        each = [latents.get(row, some) for row in rows]
        noisy = each[0].map(lambda *own: torch.cat(own) if len(own) > 1 else own[0], *each[1:])
        levels = [states[row].level(self._commit) if row in states else None for row in rows]
        level = noisy.map(
            lambda _, *own: self._level(own),
            *(PerStream(self._commit, self._commit) if own is None else own for own in levels),
        )
        return PassInputs(noisy, level)

    def _level(self, levels: Sequence[int]) -> Tensor:
        if len(levels) == 1:
            return self._levels[levels[0] : levels[0] + 1]
        return to_device(torch.tensor(levels), self._model.device)

    def _next_latents(self, state: _Row) -> PerStream[Tensor]:
        return state.latents or self._latents.begun(state.noise, state.block, state.given)

    def _renoised(self, clean: PerStream[Tensor], state: _Row) -> PerStream[Tensor]:
        sigma = state.level(self._commit).map(lambda at: self._table.sigmas[at : at + 1])
        drawn = self._latents.draw(state.noise, state.block, state.step)
        return clean.map(add_noise, drawn, sigma)


class RowStream:
    """One row's stream, block by block, as a `Rollout` of one prompt."""

    def __init__(self, batch: StreamBatch, row: int) -> None:
        self._batch, self._row = batch, row
        self.block_index = 0

    @property
    def cache(self) -> RollingCache:
        """Of all rows of the batch."""
        return self._batch.cache

    def next_block(self, given: PerStream[Tensor | None] = NOTHING) -> PerStream[Tensor]:
        """Clean latents of the next macro-block, float32; `commit` is left for later.

        `given`: clean latents of one stream, None for the other, or of both, as of
        `Rollout.next_block`.
        """
        if (both := both_of(given)) is not None:
            self.force_block(both)
            return both
        self.commit()
        self._batch.give(self._row, given)
        done: dict[int, PerStream[Tensor]] = {}
        while self._row not in done:
            done = self._batch.step([self._row])
        self.block_index += 1
        return done[self._row]

    def commit(self) -> None:
        """Write the last block's noise-free keys and values, if that is pending."""
        if not self._batch.is_committed(self._row):
            self._batch.step([self._row])

    def force_block(self, latents: PerStream[Tensor]) -> None:
        """Take `latents` as the next block instead of denoising one."""
        self.commit()
        self._batch.force(self._row, latents)
        self.block_index += 1

    def skip_to(self, block: int) -> None:
        """Let the next block be `block`, before which only the pinned ones are seen (replay.py)."""
        self.commit()
        self._batch.skip_to(self._row, block)
        self.block_index = block

    def close(self) -> None:
        """Leave the row to another stream."""
        self._batch.close(self._row)
