"""Which stages are trained in which order, and what each starts from.

The plan is plain values and reads only what earlier stages have committed, so the driver and every
worker come to the same answer.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from actors.training.distillation_worker import StageWork
from infra.config import RunConfig
from infra.dataset.manifest import DatasetManifest, read_manifest
from infra.errors import CheckpointError, ConfigError
from infra.runs.checkpoint_store import resolve_model
from infra.runs.provenance import (
    STAGES,
    ArtifactRef,
    ModelManifest,
    Recipe,
    digest_of,
    read_model_manifest,
    relative_uri,
    require_same_recipe,
    stage_recipe,
)
from infra.storage.object_store import ObjectStore
from infra.storage.package_files import with_absolute_places
from omniforcing_model.weights.checkpoint_files import folder_digest

TRAJECTORIES = "trajectories"
# The stage whose model a stage's generator starts from.
BEFORE = {
    "stage_1": "teacher",
    TRAJECTORIES: "stage_1",
    "stage_2": "stage_1",
    "stage_3": "stage_2",
}
MATCHING = ("stage_1", "stage_3")
OWN_STARTS = tuple(f"{stage}.generator" for stage in STAGES)
ROLES = ("generator", "critic", "teacher", *OWN_STARTS)


@dataclass(frozen=True)
class Artifact:
    """Something a stage works from: a dataset, or a model, whose digest is taken once."""

    place: str
    name: str
    digest: str


@dataclass(frozen=True)
class StagePlan:
    """The stages to have in the end.

    `run`: the run folder. `dataset`: URI of the clips, of `dataset_digest`. `start`: models by
    role; "generator" is where the first of `stages` starts, "stage_2.generator" where that stage
    starts instead of from the model before it.
    """

    config: RunConfig
    run: str
    dataset: str
    dataset_digest: str
    stages: tuple[str, ...]
    start: dict[str, Artifact]

    def folder(self, stage: str) -> Path:
        """Where the stage's result lies: a model folder, or the trajectories."""
        run = Path(self.run)
        return run / TRAJECTORIES if stage == TRAJECTORIES else run / "stages" / stage / "model"

    def work(self, stage: str) -> StageWork:
        """What training `stage` needs; CheckpointError if a model it starts from is not there."""
        starts = self.starts(stage)
        refs = [self._model_ref(stage, role, folder) for role, folder in starts.items()]
        data = self.dataset
        if stage == "stage_2":
            data = str(self.folder(TRAJECTORIES))
            refs.append(self._trajectories_ref(stage))
        else:
            clips = Artifact(self.dataset, Path(self.dataset).name, self.dataset_digest)
            refs.append(self._ref(stage, "dataset", "clips", clips))
        return StageWork(stage, self.config, self.run, data, starts, tuple(refs))

    def recipe(self, stage: str) -> Recipe:
        """All that decides what the stage makes."""
        return stage_recipe(self.config, stage, self.work(stage).inputs)

    def starts(self, stage: str) -> dict[str, str]:
        """Model folder of each role that does not start from random weights."""
        generator = self._generator_start(stage)
        starts = {} if generator is None else {"generator": generator}
        if stage in MATCHING:
            teacher = self._given("teacher") or str(self.folder("teacher"))
            starts |= {"critic": self._given("critic") or teacher, "teacher": teacher}
        return starts

    def model(self, stage: str) -> ModelManifest | None:
        """The stage's model, None if it is still to be trained.

        CheckpointError if a model of another configuration is in its place.
        """
        manifest = read_model_manifest(self.folder(stage))
        if manifest is None:
            return None
        recipe = self.recipe(stage)
        if manifest.recipe_digest != digest_of(recipe):
            require_same_recipe(manifest.recipe, recipe, self.folder(stage))
        return manifest

    def trajectories(self) -> DatasetManifest | None:
        """The trajectories, None if they are still to be made; otherwise like `model`."""
        manifest = read_manifest(ObjectStore(self.folder(TRAJECTORIES)))
        if manifest is not None:
            recipe = self.recipe(TRAJECTORIES)
            require_same_recipe(manifest.provenance["recipe"], recipe, self.folder(TRAJECTORIES))
        return manifest

    def is_done(self, stage: str) -> bool:
        """Whether the stage's committed result is what this plan would make."""
        if any(self._is_missing(uri) for uri in self.starts(stage).values()):
            return False
        if stage == "stage_2" and self.trajectories() is None:
            return False
        result = self.trajectories() if stage == TRAJECTORIES else self.model(stage)
        return result is not None

    def check(self) -> None:
        """CheckpointError if a model that no stage of the plan makes is not there."""
        for number, stage in enumerate(self.stages):
            made = {str(self.folder(earlier)) for earlier in self.stages[:number]}
            for role, uri in self.starts(stage).items():
                if uri not in made and self._is_missing(uri):
                    before = "teacher" if role != "generator" else BEFORE[stage]
                    raise CheckpointError(
                        f"expected a model to start the {role} of {stage} from, found none at"
                        f" {uri}; run the stage {before} too, or give --start {role}=MODEL"
                    )

    def _generator_start(self, stage: str) -> str | None:
        own = self._given(f"{stage}.generator")
        if own is not None:
            return own
        first = self.stages[0] if self.stages else None
        if stage == first or (first == TRAJECTORIES and stage == "stage_2"):
            given = self._given("generator")
            if given is not None:
                return given
        if stage == "teacher":
            return None
        if stage == "stage_1":
            return self._given("teacher") or str(self.folder("teacher"))
        return str(self.folder(BEFORE[stage]))

    def _given(self, role: str) -> str | None:
        return self.start[role].place if role in self.start else None

    def _is_missing(self, uri: str) -> bool:
        return not (Path(uri) / "config.json").is_file()

    def _ref(self, stage: str, kind: str, role: str, start: Artifact) -> ArtifactRef:
        uri = relative_uri(start.place, self.folder(stage), Path(self.run))
        values = {"role": role, "kind": kind, "name": start.name, "digest": start.digest}
        return ArtifactRef.model_validate({**values, "uri": uri})

    def _model_ref(self, stage: str, role: str, folder: str) -> ArtifactRef:
        given = [start for start in self.start.values() if start.place == folder]
        return self._ref(
            stage, "model", role, given[0] if given else _start_model(resolve_model(folder))
        )

    def _trajectories_ref(self, stage: str) -> ArtifactRef:
        manifest = self.trajectories()
        if manifest is None:
            raise CheckpointError(
                f"expected trajectories in {self.folder(TRAJECTORIES)}, found none; run the stage"
                " trajectories first"
            )
        made = Artifact(str(self.folder(TRAJECTORIES)), TRAJECTORIES, manifest.digest)
        return self._ref(stage, TRAJECTORIES, TRAJECTORIES, made)


def make_plan(
    config: RunConfig, dataset: str, run: str, stages: tuple[str, ...], start: dict[str, str]
) -> StagePlan:
    """The plan of a run, checked; stage II brings the trajectories it needs.

    Raises:
        ConfigError: an unknown stage or role, or a place that workers cannot write to.
        DatasetError: the dataset is not there.
        CheckpointError: a model to start from is not there.
    """
    _refuse_unknown("stages", stages, STAGES)
    _refuse_unknown("roles to start", tuple(start), ROLES)
    if "://" in run:
        raise ConfigError(
            f"expected --out to be a folder that all workers share, got {run!r}; name a path, and"
            " copy stages/*/model from there afterwards"
        )
    if "teacher" in stages and "teacher" in start:
        raise ConfigError(
            "expected the stage teacher or --start teacher=MODEL, got both; to train a teacher"
            " further, give --start generator=MODEL"
        )
    chosen = {*stages, *((TRAJECTORIES,) if "stage_2" in stages else ())}
    tracking = config.tracking.uri
    models = {role: _start_model(resolve_model(uri, tracking)) for role, uri in start.items()}
    plan = StagePlan(
        config=with_absolute_places(config),
        run=str(Path(run).absolute()),
        dataset=dataset if "://" in dataset else str(Path(dataset).absolute()),
        dataset_digest="",
        stages=tuple(stage for stage in STAGES if stage in chosen),
        start=models,
    )
    plan.check()
    return replace(plan, dataset_digest=_digest_of_dataset(plan.dataset))


def _start_model(folder: Path) -> Artifact:
    manifest = read_model_manifest(folder)
    if manifest is not None:
        return Artifact(str(folder.absolute()), manifest.name, manifest.digest)
    return Artifact(str(folder.absolute()), folder.name, folder_digest(folder))


def _digest_of_dataset(uri: str) -> str:
    manifest = read_manifest(ObjectStore(uri))
    if manifest is None:
        raise ConfigError(
            f"expected a dataset at {uri}, found no manifest; make one with"
            " `omniforcing preprocess`"
        )
    return manifest.digest


def _refuse_unknown(what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or (what == "stages" and not given):
        raise ConfigError(
            f"expected {what} of {', '.join(known)}, got {', '.join(unknown) or 'none'};"
            " name some of them"
        )
