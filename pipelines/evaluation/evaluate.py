"""Score real clips and models of every stage on the same prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from infra.config import RunConfig
from infra.runs.checkpoint_store import resolve_model
from infra.stages import TRAINED
from infra.terminal.progress import Progress
from omniforcing_model.beacons.metrics import ClipMeasures, Scores, judge, measure_clip
from omniforcing_model.beacons.world import parse_caption
from pipelines.evaluation.sampled_clips import Clip, ClipSampler, real_clips

REAL: Literal["real"] = "real"
DEFAULT_SEED = 2026


class Candidate(NamedTuple):
    """A model to score under `name`, sampled as models of `stage` are."""

    name: str
    stage: str
    uri: str


@dataclass(frozen=True)
class Evaluation:
    """Scores by name ("real" and candidates), clips of the first prompt, and their measures."""

    scores: dict[str, Scores]
    samples: dict[str, Clip]
    measures: dict[str, ClipMeasures]
    models: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """`{"real": {...}, "teacher": {...}, ...}` as plain values."""
        models = {name: {"model": uri} for name, uri in self.models.items()}
        return {name: asdict(scores) | models.get(name, {}) for name, scores in self.scores.items()}


def configured_models(config: RunConfig) -> list[Candidate]:
    """The model that the configuration names for each stage."""
    return [Candidate(stage, stage, config.models.of(stage)) for stage in TRAINED]


def evaluate(
    config: RunConfig,
    candidates: Sequence[Candidate],
    prompts: Sequence[str],
    progress: Progress,
    seed: int = DEFAULT_SEED,
) -> Evaluation:
    """Answer every prompt with every model, and measure picture and sound.

    Args:
        config: sizes, codecs and sampling; where MLflow is, for `models:/` URIs.
        candidates: the models.
        prompts: every source gets the same.
        progress: shows a stage per source.
        seed: of the noise, and of the real clips' first flashes.

    Raises:
        CheckpointError: a URI does not resolve to a complete model.
        WeightsError: a model is not what its configuration says.
        CaptionError: a prompt does not tell colour, rate and pitch.
    """
    traits = [parse_caption(prompt) for prompt in prompts]
    folders = [resolve_model(model.uri, config.tracking.uri) for model in candidates]
    evaluation = Evaluation({}, {}, {}, {model.name: model.uri for model in candidates})
    sources: dict[str, Iterable[Clip]] = {REAL: real_clips(config, prompts, seed)}
    for model, folder in zip(candidates, folders, strict=True):
        sources[model.name] = ClipSampler(config, model.stage, folder).clips(prompts, seed)
    for name, clips in sources.items():
        measured: list[ClipMeasures] = []
        with progress.stage(f"evaluate {name}", len(prompts)) as stage:
            for clip in clips:
                measured.append(measure_clip(clip.frames, clip.waveform, clip.sample_rate))
                evaluation.samples.setdefault(name, clip)
                stage.advance()
        evaluation.scores[name] = judge(measured, traits)
        evaluation.measures[name] = measured[0]
    return evaluation
