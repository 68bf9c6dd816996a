"""A stage without steps: its model is the one that it starts from, by links to its files."""

from actors.training.distillation_worker import StageWork
from actors.training.start_weights import start_weights
from infra.leases.fence import require_owner
from infra.machine_faults import machine_faults
from infra.runs.checkpoint_store import (
    publish,
    resolve_model,
    unfinished_model,
    write_text_at_once,
)
from infra.runs.provenance import MANIFEST, ArtifactRef, ModelManifest, code_commit
from infra.runs.run_folder import model_name
from infra.runs.tracking import Tracker
from infra.stages import GENERATOR
from omniforcing_model.weights.checkpoint_links import link_checkpoint
from omniforcing_model.weights.stated_family import StatedFamily
from pipelines.training.stage_plan import ResolvedStage
from pipelines.training.stage_watch import stage_run


def link_stage(stage: ResolvedStage, tracker: Tracker) -> ModelManifest:
    """Publish the model of a stage without steps; its manifest.

    Only the headers of its files are read. MLflow gets a registered version of it, and knows its
    digest by the run that has trained it, where there is one.

    Raises:
        ConfigError: the model is of another shape than the configuration says.
        CheckpointError: it is not there any more.
        OwnershipError: another run has taken over.
    """
    (start,) = stage.inputs
    is_known = tracker.knows(start.digest)
    with stage_run(tracker, stage) as run:
        with machine_faults(stage.folder.parent):
            manifest = _publish_link(stage, start)
        if not is_known:
            run.record_result(manifest.digest, str(stage.folder))
        run.register(manifest.name, manifest.digest, stage.folder)
    return manifest


def _publish_link(stage: ResolvedStage, start: ArtifactRef) -> ModelManifest:
    work = stage.work
    assert isinstance(work, StageWork), f"{stage.name} is a stage of training"
    config, place = work.config, work.starts[GENERATOR]
    start_weights(config, stage.name, GENERATOR, place)  # refuses one of another shape
    name = model_name(config.name, stage.name)
    unfinished = unfinished_model(stage.folder, work.fence)
    notes = {"name": name, "stage": stage.name}
    link_checkpoint(resolve_model(place), unfinished, notes, StatedFamily.of(config.model))
    manifest = ModelManifest(
        name=name,
        stage=stage.name,
        digest=start.digest,
        recipe_digest=stage.recipe_digest,
        recipe=stage.recipe,
        inputs=stage.inputs,
        commit=code_commit(),
        seed=config.stages.trained_stage(stage.name).optimiser.seed,
        step=0,
        metrics={},
    )
    write_text_at_once(unfinished / MANIFEST, manifest.model_dump_json(indent=1))
    require_owner(work.fence)
    publish(unfinished, stage.folder)
    return manifest
