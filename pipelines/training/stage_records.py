"""What MLflow has missed of finished stages, told again: after it was away, or to a new file.

A file in the run folder notes what an address has been told, so that a run of which all is told
does not connect.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from infra.dataset.manifest import read_manifest
from infra.errors import ConfigError
from infra.records import Record
from infra.runs.checkpoint_store import write_text_at_once
from infra.runs.loss_curve import CURVE_FILE, STEP, read_curve
from infra.runs.provenance import ModelManifest
from infra.runs.run_folder import stage_folder
from infra.runs.tracking import Tracker, is_at
from infra.storage.object_store import ObjectStore
from pipelines.lineage.dataset_tracking import record_dataset
from pipelines.training.candidates import record_model
from pipelines.training.stage_plan import ResolvedStage, StagePlan
from pipelines.training.stage_watch import stage_run

LOG = logging.getLogger(__name__)
TOLD_FILE = "told.json"


class Told(Record):
    """Digests of the results that MLflow at `uri` knows."""

    uri: str
    digests: tuple[str, ...]


class StageRecords:
    """Of a run, at one address of MLflow."""

    def __init__(self, plan: StagePlan, uri: str) -> None:
        self._plan = plan
        self._run = Path(plan.run)
        self._uri = uri
        self._tracker: Tracker | None = None

    def tracker(self) -> Tracker:
        """MLflow, connected once, with a run for the dataset, so that lineage reaches the clips.

        ConfigError if nothing answers.
        """
        if self._tracker is None:
            config, place = self._plan.config, self._plan.dataset.place
            artifacts = self._run / "mlartifacts"
            self._tracker = Tracker(self._uri, config.tracking.experiment, artifacts)
            manifest = read_manifest(ObjectStore(place))
            if manifest is not None:
                record_dataset(self._tracker, config.name, manifest, place)
        return self._tracker

    def catch_up(self, stages: Sequence[ResolvedStage]) -> None:
        """Tell MLflow of the finished `stages` that it has missed; a line in the log if it is away.

        The next run tells it then.
        """
        if not self._missed(stages):
            return
        try:
            tracker = self.tracker()
        except ConfigError as error:
            LOG.warning("nothing is told of finished stages: %s", error)
            return
        for stage in stages:
            if not tracker.knows(_digest(stage)):
                self._tell(stage, tracker)
        known = tuple(_digest(stage) for stage in stages if tracker.knows(_digest(stage)))
        told = Told(uri=self._uri, digests=known)
        write_text_at_once(self._run / TOLD_FILE, told.model_dump_json())
        if missed := self._missed(stages):
            names = ", ".join(stage.name for stage in missed)
            LOG.warning("MLflow lacks %s; run the same command again when it answers", names)

    def _missed(self, stages: Sequence[ResolvedStage]) -> list[ResolvedStage]:
        try:
            told = Told.model_validate_json((self._run / TOLD_FILE).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return list(stages)
        known = told.digests if told.uri == self._uri and is_at(self._uri) else ()
        return [stage for stage in stages if _digest(stage) not in known]

    def _tell(self, stage: ResolvedStage, tracker: Tracker) -> None:
        result = stage.result
        with stage_run(tracker, stage) as run:
            if isinstance(result, ModelManifest):
                for figures in read_curve(stage_folder(self._run, stage.name) / CURVE_FILE):
                    step = int(figures[STEP])
                    run.log(step, {name: n for name, n in figures.items() if name != STEP})
                record_model(run, stage, result)
            else:
                run.record_result(_digest(stage), str(stage.folder))


def _digest(stage: ResolvedStage) -> str:
    assert stage.result is not None, f"{stage.name} is finished"
    return stage.result.digest
