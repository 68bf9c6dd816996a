"""Streams of one model one after the other, as a server's process runs them: rows of a batch, whose
passes are made once and serve every later stream."""

from torch import Tensor

from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import Passes, PassInputs, PassKind, passes_for
from omniforcing_model.streaming.stream_batch import RowStream, StreamBatch
from omniforcing_model.transformer.text_context import TextContext
from pipelines.benchmarks.machine.device import Stopwatch
from pipelines.benchmarks.stand_ins.subject import SEED, UnreadSubject


class TimedPasses:
    """Passes, and when each began and ended."""

    def __init__(self, passes: Passes, watch: Stopwatch) -> None:
        """`passes` runs them."""
        self._passes, self._watch = passes, watch
        self._marks: list[tuple[object, object]] = []

    def __call__(self, kind: PassKind, inputs: PassInputs) -> PerStream[Tensor]:
        """One pass."""
        began = self._watch.mark()
        clean = self._passes(kind, inputs)
        self._marks.append((began, self._watch.mark()))
        return clean

    def take_seconds(self) -> list[float]:
        """Of each pass since the last call."""
        marks, self._marks = self._marks, []
        return [self._watch.seconds(began, ended) for began, ended in marks]


class ServedStreams:
    """One stream at a time."""

    def __init__(
        self, subject: UnreadSubject, watch: Stopwatch, passes: Passes | None = None
    ) -> None:
        """Nothing is allocated before the first stream; the model's weights are final by then.

        Args:
            subject: whose text is not used.
            watch: for the passes.
            passes: who runs them; by default as a server does where the model is.
        """
        self._subject = subject
        self.passes = TimedPasses(passes or passes_for(subject.model.device), watch)
        self._batch: StreamBatch | None = None
        self._stream: RowStream | None = None

    def open(self, text: TextContext) -> RowStream:
        """A new stream; the one before it is over."""
        if self._batch is None:
            model, grid, sigmas = self._subject.model, self._subject.grid, self._subject.sigmas
            self._batch = StreamBatch(model, grid, sigmas, passes=self.passes)
        if self._stream is not None:
            self._stream.close()
        self._stream = self._batch.open(0, text, seeded_noise(SEED))
        return self._stream

    def cache_bytes(self) -> int:
        """Bytes of the rolling caches."""
        return 0 if self._batch is None else self._batch.cache.nbytes()
