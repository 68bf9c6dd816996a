"""A frozen teacher that training workers ask for its guided predictions, in a process of its own.

It computes what the role `teacher` would in the workers: of the same weights in the same precision,
for a worker's micro-batch at a time. Text features are large and come back in every epoch: they are
asked for once, by a digest, and kept.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from actors.latents.codec_loading import own_device
from actors.training.deepspeed_engines import Held
from actors.training.role_engine import FrozenRole
from actors.training.start_weights import made_network, start_weights
from infra.claims import TeacherServerResources
from infra.config import RunConfig
from infra.machine_faults import machine_faults
from infra.stages import TEACHER
from omniforcing_model.distillation.real_score import NoisedSamples, predict_guided
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.denoiser import Denoiser

Texts = Mapping[str, PerStream[Tensor]]


@dataclass(frozen=True)
class TeacherWork:
    """Which teacher answers: that of `stage`, from the model folder `start`, or a random one."""

    config: RunConfig
    stage: str
    start: str | None


class Question(NamedTuple):
    """`NoisedSamples` on the CPU, with the digests of each clip's texts in their place."""

    noisy: PerStream[Tensor]
    sigma: Tensor
    texts: tuple[str, ...]
    null_texts: tuple[str, ...]
    guidance: PerStream[float]


class MissingTexts(NamedTuple):
    """Instead of an answer: the digests of texts that the question has to bring."""

    digests: frozenset[str]


class TeacherServer:
    """Answers questions one after the other; it holds the teacher of the last one."""

    def __init__(self, claim: TeacherServerResources) -> None:
        """Hold nothing yet: what a question needs comes with it, also after a restart."""
        torch.set_num_threads(max(1, int(claim.cpus)))
        self._device = own_device()
        self._kept_prompts = claim.kept_prompts
        self._texts: OrderedDict[str, PerStream[Tensor]] = OrderedDict()
        self._work: TeacherWork | None = None
        self._teacher: Denoiser | None = None

    def load(self, work: TeacherWork) -> None:
        """Hold the teacher of `work`.

        ConfigError if it is of another shape than the configuration, CheckpointError if it is not
        there.
        """
        with machine_faults():
            self._teacher_of(work)

    def predict(
        self, work: TeacherWork, question: Question, texts: Texts
    ) -> PerStream[Tensor] | MissingTexts:
        """Clean latents on the CPU, or which texts are neither kept nor among `texts`.

        Args:
            work: which teacher.
            question: a worker's micro-batch.
            texts: features (tokens, text_width) per stream on the CPU, by digest.
        """
        known = {**self._texts, **texts}
        missing = {*question.texts, *question.null_texts} - known.keys()
        if missing:
            return MissingTexts(frozenset(missing))
        with machine_faults():
            samples = NoisedSamples(
                question.noisy,
                question.sigma,
                _batch(known[digest] for digest in question.texts),
                _batch(known[digest] for digest in question.null_texts),
                question.guidance,
            )
            clean = predict_guided(self._teacher_of(work), on_device(samples, self._device))
        for digest in (*question.texts, *question.null_texts):
            self._texts[digest] = known[digest]
            self._texts.move_to_end(digest)
        while len(self._texts) > self._kept_prompts:
            self._texts.popitem(last=False)
        return clean.map(Tensor.cpu)

    def _teacher_of(self, work: TeacherWork) -> Denoiser:
        if self._teacher is None or work != self._work:
            self._teacher = None  # room for the next one
            start = start_weights(work.config, work.stage, TEACHER, work.start)
            precision = work.config.stages.trained_stage(work.stage).optimiser.precision
            whole = Held(precision, zero_stage=1)  # no rank holds a part of it
            self._teacher = FrozenRole(made_network(start, whole, self._device), whole).passes
            self._work = work
        return self._teacher


def on_device(samples: NoisedSamples, device: torch.device | str) -> NoisedSamples:
    """The same samples where `device` is."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    return NoisedSamples(
        samples.noisy.map(moved),
        samples.sigma.to(device),
        samples.text.map(moved),
        samples.null_text.map(moved),
        samples.guidance,
    )


def question_of(samples: NoisedSamples) -> tuple[Question, Texts]:
    """Samples on the CPU as they are asked about, and their texts by digest."""
    texts: dict[str, PerStream[Tensor]] = {}

    def digests(features: PerStream[Tensor]) -> tuple[str, ...]:
        own = [text_of(features, row) for row in range(len(samples.sigma))]
        names = tuple(map(text_digest, own))
        texts.update(zip(names, own, strict=True))
        return names

    question = Question(
        samples.noisy,
        samples.sigma,
        digests(samples.text),
        digests(samples.null_text),
        samples.guidance,
    )
    return question, texts


def text_of(features: PerStream[Tensor], row: int) -> PerStream[Tensor]:
    """A clip's own features (tokens, text_width) per stream, of a batch's, as they travel."""
    return features.map(lambda of_batch: of_batch[row].contiguous().clone())


def text_digest(features: PerStream[Tensor]) -> str:
    """What names a clip's features (tokens, text_width) per stream, on the CPU."""
    digest = hashlib.sha256()
    for stream in features:
        digest.update(f"{tuple(stream.shape)} {stream.dtype}".encode())
        digest.update(stream.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _batch(texts: Iterable[PerStream[Tensor]]) -> PerStream[Tensor]:
    video, audio = zip(*texts, strict=True)
    return PerStream(torch.stack(video), torch.stack(audio))
