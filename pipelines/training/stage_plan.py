"""What a run of `distill` makes, stage by stage: from which models and data, and what is there.

A plan is plain values. The driver and every worker go through its stages in order: `resolve` reads
what a stage has committed, `with_result` hands its digest on to the stages that are made from it.
So each manifest is read once, and all come to the same answer.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from actors.training.distillation_worker import StageWork
from actors.training.teacher_sampler import TrajectoryWork
from infra.config import CodecConfig, RunConfig
from infra.dataset.manifest import DatasetManifest, read_manifest
from infra.errors import CheckpointError, ConfigError
from infra.leases.fence import Fence
from infra.runs.checkpoint_store import resolve_model
from infra.runs.provenance import (
    ArtifactRef,
    ModelManifest,
    Recipe,
    digest_of,
    read_model_manifest,
    relative_uri,
    require_same_recipe,
)
from infra.runs.run_folder import result_folder
from infra.runs.stage_recipe import stage_recipe
from infra.stages import GENERATOR, STAGES, TRAINED, TRAJECTORIES
from infra.storage.object_store import ObjectStore
from infra.storage.package_files import with_absolute_places
from omniforcing_model.weights.checkpoint_files import folder_digest
from pipelines.preprocessing.codec_digests import text_digests

TEXT_ENCODER = "text_encoder"
# What --start may name: a role in every stage that has it, and each stage's own generator.
START_ROLES = tuple(
    dict.fromkeys(
        [
            *(role for spec in STAGES.values() for role in spec.starts_from),
            *(f"{stage}.{GENERATOR}" for stage in STAGES),
        ]
    )
)


@dataclass(frozen=True)
class Artifact:
    """Something a stage works from: a dataset, or a model, whose digest is taken once."""

    place: str
    name: str
    digest: str


@dataclass(frozen=True)
class ResolvedStage:
    """A stage of which all is known: what it is made from, and its result where that is there.

    `folder`: of the result.
    """

    name: str
    work: StageWork | TrajectoryWork
    inputs: tuple[ArtifactRef, ...]
    recipe: Recipe
    folder: Path
    result: ModelManifest | DatasetManifest | None

    @property
    def is_link(self) -> bool:
        """Whether its model is the one that it starts from, for it has no steps."""
        return isinstance(self.work, StageWork) and _has_no_steps(self.work.config, self.name)

    @cached_property
    def recipe_digest(self) -> str:
        """What names the result: equal recipes make the same."""
        return digest_of(self.recipe)


@dataclass(frozen=True)
class StagePlan:
    """The stages that a run will have.

    `run`: the run folder. `start`: models by role; "generator" is where the first of `stages`
    starts, "stage.generator" where that stage starts instead of from the model before it.
    `text`: the encoder of the prompts that no row has, where it is made of weights. `results`:
    what the run folder holds of the stages, as far as the plan has come.
    `fence`: of whoever owns the run folder, for all who make something of the plan.
    """

    config: RunConfig
    run: str
    dataset: Artifact
    text: Artifact | None
    stages: tuple[str, ...]
    start: dict[str, Artifact]
    results: dict[str, Artifact]
    fence: Fence | None = None

    @property
    def pending(self) -> tuple[str, ...]:
        """The stages whose result is not known yet."""
        return tuple(stage for stage in self.stages if stage not in self.results)

    def is_link(self, stage: str) -> bool:
        """Whether the model of `stage` is the one that it starts from, for it has no steps."""
        return _has_no_steps(self.config, stage)

    def resolve(self, stage: str) -> ResolvedStage:
        """`stage` with what is committed of it; the plan must know the results that it needs.

        CheckpointError if what lies in its place was made by another configuration.
        """
        folder = result_folder(self.run, stage)
        models = self._models(stage)
        inputs = [self._ref(folder, role, "model", model) for role, model in models.items()]
        data, config = self.dataset, self.config
        prompts: str | None = None
        if self.is_link(stage):
            pass  # it reads nothing
        elif STAGES[stage].reads == TRAJECTORIES:
            data, prompts = self.results[TRAJECTORIES], self.dataset.place
            inputs.append(self._ref(folder, TRAJECTORIES, TRAJECTORIES, data))
        else:
            inputs.append(self._ref(folder, "clips", "dataset", data))
        if self.text is not None and self._encodes_prompts(stage):
            inputs.append(self._ref(folder, TEXT_ENCODER, "model", self.text))
        starts = {role: model.place for role, model in models.items()}
        refs = tuple(inputs)
        work = (
            StageWork(stage, config, self.run, data.place, starts, refs, self.fence, prompts)
            if STAGES[stage].is_trained
            else TrajectoryWork(config, starts[GENERATOR], data.place, str(folder))
        )
        recipe = stage_recipe(config, stage, refs)
        return ResolvedStage(stage, work, refs, recipe, folder, _read_result(stage, folder, recipe))

    def with_result(self, stage: ResolvedStage) -> "StagePlan":
        """The plan in which the result of `stage` is known."""
        result = stage.result
        assert result is not None, f"{stage.name} is made before its result is handed on"
        name = result.name if isinstance(result, ModelManifest) else stage.name
        artifact = Artifact(str(stage.folder), name, result.digest)
        return replace(self, results=self.results | {stage.name: artifact})

    def with_earlier_models(self) -> "StagePlan":
        """The plan in which models that no stage of it makes are known: of an earlier run.

        CheckpointError if one of them, or the start of a stage without steps, is not there.
        """
        results = dict(self.results)
        for number, stage in enumerate(self.stages):
            for role, before in self._starts_from(stage).items():
                if self._start_option(stage, role) is not None:
                    continue
                if before is not None and before not in self.stages[:number]:
                    results[before] = self._earlier_model(stage, role, before)
                if before is None and self.is_link(stage):
                    raise CheckpointError(
                        f"expected a model that {stage}, which has no steps, hands on, got none;"
                        f" give --start {role}=MODEL, or raise stages.{stage}.optimiser.steps"
                    )
        return replace(self, results=results)

    def _earlier_model(self, stage: str, role: str, before: str) -> Artifact:
        folder = result_folder(self.run, before)
        if not (folder / "config.json").is_file():
            trained = before in trained_stages(self.config)
            ways = f"run the stage {before} too, or " if trained else ""
            raise CheckpointError(
                f"expected a model to start the {role} of {stage} from, got none at {folder};"
                f" {ways}give --start {before if before in START_ROLES else role}=MODEL"
            )
        return _model(resolve_model(str(folder)))

    def _encodes_prompts(self, stage: str) -> bool:
        """Whether a stage takes guidance, or learns without a caption."""
        if STAGES[stage].is_trained:
            return STAGES[stage].reads != TRAJECTORIES and not self.is_link(stage)
        return self.config.stages.trajectories.guided

    def _starts_from(self, stage: str) -> dict[str, str | None]:
        """Whose model each role starts from, None where it may start anew; of a link its own."""
        roles = {GENERATOR: None} | dict(STAGES[stage].starts_from)
        return {GENERATOR: roles[GENERATOR]} if self.is_link(stage) else roles

    def _models(self, stage: str) -> dict[str, Artifact]:
        """The model of each role that does not start from random weights."""
        models: dict[str, Artifact] = {}
        for role, before in self._starts_from(stage).items():
            model = self._start_option(stage, role)
            if model is None and before is not None:
                model = self.results[before]
            if model is not None:
                models[role] = model
        return models

    def _start_option(self, stage: str, role: str) -> Artifact | None:
        """The model of --start for a role: its own, the role's, that of the stage before."""
        names = [f"{stage}.{role}"]
        if role != GENERATOR or self._starts_like_the_first(stage):
            names.append(role)
        names.append(STAGES[stage].starts_from.get(role, ""))
        return next((self.start[name] for name in names if name in self.start), None)

    def _starts_like_the_first(self, stage: str) -> bool:
        """Whether it is the plan's first stage, or reads what a job makes that is the first."""
        first = self.stages[0]
        if STAGES[first].is_trained:
            return stage == first
        return STAGES[stage].starts_from == STAGES[first].starts_from

    def _ref(
        self,
        folder: Path,
        role: str,
        kind: Literal["dataset", "trajectories", "model"],
        artifact: Artifact,
    ) -> ArtifactRef:
        """How the manifest of a result in `folder` names one of its inputs."""
        uri = relative_uri(artifact.place, folder, Path(self.run))
        return ArtifactRef(
            role=role, kind=kind, name=artifact.name, digest=artifact.digest, uri=uri
        )


def make_plan(
    config: RunConfig, dataset: str, run: str, stages: tuple[str, ...], start: dict[str, str]
) -> StagePlan:
    """The plan of a run, checked; a stage that reads trajectories brings them.

    Raises:
        ConfigError: an unknown stage or role, a role that would not learn, a place that workers
            cannot write to, or no dataset.
        DatasetError: the manifest of the dataset is damaged.
        CheckpointError: a model to start from is not there.
    """
    _refuse_unknown("stages", stages, tuple(STAGES))
    _refuse_unknown("roles to start", tuple(start), START_ROLES)
    if "://" in run:
        raise ConfigError(
            f"expected --out to be a folder that all workers share, got {run!r}; name a path, and"
            " copy stages/*/model from there afterwards"
        )
    for stage in set(stages) & start.keys():
        raise ConfigError(
            f"expected the stage {stage} or --start {stage}=MODEL, got both; to train a {stage}"
            f" further, give --start {GENERATOR}=MODEL"
        )
    refuse_idle_roles(config, stages)
    learning = [stage for stage in stages if not _has_no_steps(config, stage)]
    chosen = {*stages, *(STAGES[stage].reads for stage in learning)}
    tracking = config.tracking.uri
    plan = StagePlan(
        config=with_absolute_places(config),
        run=str(Path(run).absolute()),
        dataset=_dataset(dataset if "://" in dataset else str(Path(dataset).absolute())),
        text=_text_encoder(config.codec),
        stages=tuple(stage for stage in STAGES if stage in chosen),
        start={role: _model(resolve_model(uri, tracking)) for role, uri in start.items()},
        results={},
    )
    return plan.with_earlier_models()


def trained_stages(config: RunConfig) -> tuple[str, ...]:
    """The stages that a configuration trains: from the first with steps to the last. One between
    them that has none hands the model before it on."""
    steps = [number for number, name in enumerate(TRAINED) if not _has_no_steps(config, name)]
    return TRAINED[steps[0] : steps[-1] + 1] if steps else ()


def refuse_idle_roles(config: RunConfig, stages: tuple[str, ...]) -> None:
    """ConfigError if the generator or the critic of one of `stages` never learns in its steps: it
    would be published as it starts, or teach with what it starts from."""
    for stage in stages:
        if not STAGES[stage].is_trained or _has_no_steps(config, stage):
            continue
        settings = config.stages.trained_stage(stage)
        idle = [role.name for role in settings.roles if not role.updates]
        if idle:
            raise ConfigError(
                f"expected updates of every role that learns in {stage}, got none of the"
                f" {' and the '.join(idle)} in {settings.optimiser.steps} steps; raise"
                f" stages.{stage}.optimiser.steps, or set it to 0 to hand on what it starts from"
            )


def _has_no_steps(config: RunConfig, stage: str) -> bool:
    """Whether `stage` is one of training that trains nothing."""
    return STAGES[stage].is_trained and not config.stages.trained_stage(stage).optimiser.steps


def _read_result(
    stage: str, folder: Path, recipe: Recipe
) -> ModelManifest | DatasetManifest | None:
    """What `stage` has left in `folder`; CheckpointError if another recipe made it."""
    if STAGES[stage].is_trained:
        model = read_model_manifest(folder)
        if model is not None:
            require_same_recipe(model.recipe, recipe, folder)
        return model
    rows = read_manifest(ObjectStore(folder))
    if rows is not None:
        require_same_recipe(rows.provenance["recipe"], recipe, folder)
    return rows


def _model(folder: Path) -> Artifact:
    manifest = read_model_manifest(folder)
    if manifest is not None:
        return Artifact(str(folder.absolute()), manifest.name, manifest.digest)
    return Artifact(str(folder.absolute()), folder.name, folder_digest(folder))


def _text_encoder(codec: CodecConfig) -> Artifact | None:
    """The encoder of captions by the digest of its weights; ConfigError if it is not there."""
    digests = text_digests(codec)
    if not digests:
        return None
    return Artifact(codec.text or "", TEXT_ENCODER, digest_of(digests))


def _dataset(uri: str) -> Artifact:
    manifest = read_manifest(ObjectStore(uri))
    if manifest is None:
        raise ConfigError(
            f"expected a dataset at {uri}, got no manifest; make one with `omniforcing preprocess`"
        )
    return Artifact(uri, Path(uri).name, manifest.digest)


def _refuse_unknown(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or (what == "stages" and not names):
        raise ConfigError(
            f"expected {what} of {', '.join(known)}, got {', '.join(unknown) or 'none'};"
            " name some of them"
        )
