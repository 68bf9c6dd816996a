"""The average of the generator's weights: each rank keeps that of its own part of them.

What needs a whole tensor gets one at a time, of which every rank gives its part.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch import distributed as dist

from actors.training.role_engine import RoleEngine
from actors.training.saved_tensors import SavedTensors, Shard
from omniforcing_model.distillation.ema import Ema
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.weights.safetensors_file import TensorToWrite

NOTHING_MORE = -1


class AveragedWeights:
    """Of one generator; every rank makes one at the same time, and calls the same methods."""

    def __init__(self, generator: RoleEngine, decay: float) -> None:
        """Start from the generator's present weights."""
        self._generator = generator
        self._ema = Ema(self._present(), decay)
        twin = DualStreamTransformer.without_memory(generator.network.config)
        self._pieces = twin.file_pieces()
        self._numbers = {name: number for number, name in enumerate(self._pieces)}

    def update(self) -> None:
        """Move the average towards the weights."""
        self._ema.update(self._present())

    def state(self) -> dict[str, Shard]:
        """What this rank holds of the averages, by name."""
        shards = self._generator.shards()
        averages = self._ema.averages
        return {name: Shard(averages[name], shard.start) for name, shard in shards.items()}

    def restore(self, saved: SavedTensors, updates: int) -> None:
        """Continue from a saved state, into which so many updates had gone."""
        self._ema.updates = updates
        for name, (average, start) in self.state().items():
            average.copy_(saved.part(name, start, len(average)))

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within it this rank reads `tensors`, while all others are in `answer`."""
        try:
            yield
        finally:
            self._say(NOTHING_MORE)

    def tensors(self) -> Sequence[TensorToWrite]:
        """The averaged model as a file has it; each is gathered when it is read."""
        return [
            TensorToWrite(name, torch.float32, tuple(piece.view.shape), partial(self._ask, name))
            for name, piece in self._pieces.items()
        ]

    def answer(self) -> None:
        """Give this rank's part of what rank 0 reads, until it has read all that it wants."""
        names = list(self._pieces)
        while (asked := self._say(NOTHING_MORE)) != NOTHING_MORE:
            self._piece(names[asked])

    def _ask(self, name: str) -> Tensor:
        self._say(self._numbers[name])
        return self._piece(name)

    def _say(self, number: int) -> int:
        """What rank 0 says, on every rank; what another one says is not heard."""
        said = torch.tensor(number, device=self._generator.network.device)
        dist.broadcast(said, 0)
        return int(said)

    def _piece(self, name: str) -> Tensor:
        piece = self._pieces[name]
        whole = self._whole(piece.parameter)
        return whole[piece.row : piece.row + len(piece.view)]

    def _whole(self, name: str) -> Tensor:
        return self._generator.whole(name, self._ema.averages.get(name))

    def _present(self) -> dict[str, Tensor]:
        return {name: shard.values for name, shard in self._generator.shards().items()}
