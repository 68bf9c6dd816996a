"""Runs, datasets and models in MLflow. The only file that knows MLflow, and it loads it late.

A run per stage and per preprocessing job: its settings as parameters, its curve as metrics, its
dataset as an input, and as tags its digests and the runs its inputs came from. A model becomes a
LoggedModel and a version in the registry under the alias `candidate`; `champion` is for whoever
has looked at it. Weights stay where they are: MLflow holds their folder and digest.

Work does not end because its record cannot be kept: after `Tracker` has connected, what MLflow does
not take is a line in the log. Whoever needs it there asks `knows`, and tells it again.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from infra.errors import CheckpointError, ConfigError
from infra.machine_faults import machine_faults, require_room
from infra.runs.provenance import ArtifactRef

LOG = logging.getLogger(__name__)
T = TypeVar("T")

REGISTRY_SCHEME = "models:/"
SQLITE = "sqlite:///"
CANDIDATE = "candidate"
CHAMPION = "champion"
KIND_TAG, DIGEST_TAG, URI_TAG = "omniforcing.kind", "omniforcing.digest", "omniforcing.uri"
RECIPE_TAG, COMMIT_TAG = "omniforcing.recipe_digest", "omniforcing.commit"
FOLDER_TAG = "omniforcing.folder"
WORSE_TAG = "omniforcing.got_worse"
INPUTS_TAG = "omniforcing.inputs"
UPSTREAM_TAG = "omniforcing.upstream_run."
# Limits of MLflow: a dataset's digest, and metrics and parameters per request.
DATASET_DIGEST_CHARACTERS = 32
METRICS_PER_REQUEST = 1000
PARAMETERS_PER_REQUEST = 100
PARAMETER_CHARACTERS = 500
# So long nothing is sent that MLflow has not taken; a request that nobody answers takes as long.
PAUSE_S = 30.0


class ProducingRun(NamedTuple):
    """A finished run, its result at `uri`, and its inputs, whose URIs may be relative to that."""

    run_id: str
    kind: str
    name: str
    uri: str
    recipe_digest: str | None
    commit: str | None
    inputs: tuple[ArtifactRef, ...]


def default_tracking_uri(uri: str | None, run_folder: Path) -> str:
    """`uri` of the configuration, or the SQLite file of the run's own folder."""
    return uri or f"{SQLITE}{run_folder.absolute()}/mlflow.db"


def is_at(uri: str) -> bool:
    """Whether MLflow's file is still there; of an address nobody knows without asking."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


class Tracker:
    """MLflow at one address. Every address is explicit: nothing is written where a program runs."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None) -> None:
        """Connect, and create the experiment; without a server its artifacts go to `artifacts`.

        ConfigError if nothing answers at `uri`, MachineError if the disk of its file is full.
        """
        self.uri = uri
        if uri.startswith(SQLITE):
            folder = Path(uri.removeprefix(SQLITE)).parent
            with machine_faults(folder):
                folder.mkdir(parents=True, exist_ok=True)
            require_room(folder)
        self._client = _client(uri)
        existing = self._client.get_experiment_by_name(experiment)
        if existing is None:
            own_place = artifacts if uri.startswith(SQLITE) else None
            location = None if own_place is None else own_place.absolute().as_uri()
            self._experiment = self._client.create_experiment(experiment, location)
        else:
            self._experiment = existing.experiment_id

    @contextmanager
    def run(
        self,
        name: str,
        kind: str,
        parameters: Mapping[str, Any],
        inputs: Sequence[ArtifactRef],
        tags: Mapping[str, str],
    ) -> Iterator["TrackedRun"]:
        """A run of `kind` ("stage", "trajectories", "preprocess") that ends with this block.

        Args:
            name: shown in MLflow.
            kind: what is done.
            parameters: settings, with dotted keys.
            inputs: datasets and models it works from; their runs are linked where known.
            tags: more of them.
        """

        def begin() -> str:
            upstream = {
                f"{UPSTREAM_TAG}{ref.role}": str(run.info.run_id)
                for ref in inputs
                if (run := _producer(self._client, ref.digest)) is not None
            }
            described = json.dumps([ref.model_dump() for ref in inputs])
            all_tags = {KIND_TAG: kind, INPUTS_TAG: described, **upstream, **tags}
            made = self._client.create_run(self._experiment, run_name=name, tags=all_tags)
            self._log_parameters(made.info.run_id, parameters)
            self._log_datasets(made.info.run_id, inputs)
            return str(made.info.run_id)

        run_id = _told(f"the run {name}", begin)
        tracked = TrackedRun(self._client, self.uri, self._experiment, run_id)
        try:
            yield tracked
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            tracked.end("KILLED" if stopped else "FAILED")
            raise
        tracked.end("FINISHED")

    def knows(self, digest: str) -> bool:
        """Whether the result of a finished run has this digest; no, if MLflow does not say."""
        return _told("a question", lambda: _producer(self._client, digest)) is not None

    def end_abandoned(self, folder: str) -> None:
        """End, as KILLED, the runs whose result was to lie in `folder`, and that were left behind.

        Whoever calls must own the folder.
        """

        def end() -> None:
            filters = f"tags.`{FOLDER_TAG}` = '{folder}' and attributes.status = 'RUNNING'"
            for run in self._client.search_runs([self._experiment], filter_string=filters):
                self._client.set_terminated(run.info.run_id, "KILLED")

        _told("the end of runs that were killed", end)

    def promote(self, name: str, alias: str, to: str) -> None:
        """Let alias `to` of the registered model `name` point where `alias` points."""
        version = self._client.get_model_version_by_alias(name, alias).version
        self._client.set_registered_model_alias(name, to, version)

    def _log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        entities = _mlflow().entities
        listed = [
            entities.Param(key, str(value)[:PARAMETER_CHARACTERS])
            for key, value in parameters.items()
        ]
        for start in range(0, len(listed), PARAMETERS_PER_REQUEST):
            self._client.log_batch(run_id, params=listed[start : start + PARAMETERS_PER_REQUEST])

    def _log_datasets(self, run_id: str, inputs: Sequence[ArtifactRef]) -> None:
        entities = _mlflow().entities
        datasets = [
            entities.DatasetInput(
                entities.Dataset(
                    name=ref.name,
                    digest=ref.digest.removeprefix("sha256:")[:DATASET_DIGEST_CHARACTERS],
                    source_type="parquet",
                    source=json.dumps({"uri": ref.uri, "digest": ref.digest}),
                ),
                [entities.InputTag("mlflow.data.context", ref.role)],
            )
            for ref in inputs
            if ref.kind != "model"
        ]
        if datasets:
            self._client.log_inputs(run_id, datasets=datasets)


class TrackedRun:
    """One run under way: figures as they come, and at the end its result.

    `run_id`: None where MLflow has not taken the run; then it takes nothing of it.
    """

    def __init__(self, client: Any, uri: str, experiment: str, run_id: str | None) -> None:
        self.run_id = run_id
        self._next_try = 0.0
        self._client = client
        self._uri = uri
        self._experiment = experiment
        self._waiting: list[Any] = []

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step; they are sent in batches."""
        metric = _mlflow().entities.Metric
        now_ms = int(time.time() * 1000)
        self._waiting += [metric(name, value, now_ms, step) for name, value in figures.items()]
        if len(self._waiting) >= METRICS_PER_REQUEST:
            self.flush()  # pauses after it was not taken

    def flush(self) -> None:
        """Send the figures that wait; what is not taken goes on waiting."""

        def send() -> bool:
            while self._waiting:
                self._client.log_batch(self.run_id, metrics=self._waiting[:METRICS_PER_REQUEST])
                del self._waiting[:METRICS_PER_REQUEST]
            return True

        self._tell("figures", send)

    def end(self, status: str) -> None:
        """Send what waits, and end the run."""
        self._next_try = 0.0
        self.flush()
        self._tell("its end", lambda: self._client.set_terminated(self.run_id, status) or True)

    def record_result(self, digest: str, uri: str) -> None:
        """Tag the run with its result, so that later runs and lineage find it by its digest."""

        def tag() -> bool:
            self._client.set_tag(self.run_id, URI_TAG, uri)
            self._client.set_tag(self.run_id, DIGEST_TAG, digest)
            return True

        self._tell("a result", tag)

    def refuse(self, why: str) -> None:
        """Tag the run with why its model is no candidate."""
        self._tell("a refusal", lambda: self._client.set_tag(self.run_id, WORSE_TAG, why) or True)

    def _tell(self, what: str, call: Callable[[], T]) -> T | None:
        """What `call` gives; None, and a pause, if MLflow does not take it."""
        if self.run_id is None or time.monotonic() < self._next_try:
            return None
        result = _told(what, call)
        self._next_try = 0.0 if result is not None else time.monotonic() + PAUSE_S
        return result

    def attach(self, name: str, text: str) -> bool:
        """Keep `text` as the run's artifact `name`; False, and a line in the log, if it cannot be.

        MLflow may keep artifacts where this machine may not write.
        """
        try:
            self._client.log_text(self.run_id, text, name)
        except (_mlflow().exceptions.MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            LOG.warning("leaving %s out of MLflow's artifacts: %s", name, reason)
            return False
        return True

    def register(self, name: str, digest: str, folder: Path) -> str | None:
        """Register the model in `folder` as a version of `name`, alias `candidate`; its version,
        None if MLflow does not take it."""
        return self._tell(f"the model {name}", lambda: self._register(name, digest, folder))

    def _register(self, name: str, digest: str, folder: Path) -> str:
        mlflow = _mlflow()
        tags = {DIGEST_TAG: digest, URI_TAG: str(folder.absolute())}
        logged = self._client.create_logged_model(
            self._experiment, name=name, source_run_id=self.run_id, tags=tags, params=tags
        )
        ready = mlflow.entities.LoggedModelStatus.READY
        self._client.finalize_logged_model(logged.model_id, ready)
        try:
            self._client.create_registered_model(name)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags["omniforcing.model_id"] = logged.model_id
        # A server takes no paths of other machines; a file's client looks models up elsewhere.
        is_file = self._uri.startswith(SQLITE)
        source = str(folder.absolute()) if is_file else f"models:/{logged.model_id}"
        version = self._client.create_model_version(
            name, source=source, run_id=self.run_id, tags=tags, model_id=logged.model_id
        ).version
        self._client.set_registered_model_alias(name, CANDIDATE, version)
        return str(version)


class RunIndex:
    """Finds the run that a dataset or a model is the result of; reads only."""

    def __init__(self, uri: str) -> None:
        """Connect; ConfigError if nothing answers at `uri`."""
        path = Path(uri.removeprefix(SQLITE))
        if uri.startswith(SQLITE) and not path.is_file():
            raise ConfigError(f"expected MLflow's file at {path}, got none; check tracking.uri")
        self._client = _client(uri)

    def producer(self, digest: str) -> ProducingRun | None:
        """The newest finished run whose result has this digest, None if there is none."""
        run = _producer(self._client, digest)
        if run is None:
            return None
        tags = run.data.tags
        inputs = [ArtifactRef.model_validate(values) for values in json.loads(tags[INPUTS_TAG])]
        return ProducingRun(
            run_id=run.info.run_id,
            kind=tags[KIND_TAG],
            name=run.info.run_name,
            uri=tags[URI_TAG],
            recipe_digest=tags.get(RECIPE_TAG),
            commit=tags.get(COMMIT_TAG),
            inputs=tuple(inputs),
        )


def registered_model_folder(uri: str, tracking_uri: str | None) -> Path:
    """Folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION`; CheckpointError if unknown."""
    if tracking_uri is None:
        raise CheckpointError(
            f"expected to know the registry of {uri}, got no address; give"
            " --set tracking.uri=sqlite:////path/of/the/run/mlflow.db, or name the model's folder"
        )
    name, at, alias = uri.removeprefix(REGISTRY_SCHEME).partition("@")
    client = _client(tracking_uri)
    try:
        if at:
            version = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = name.partition("/")
            version = client.get_model_version(name, number)
    except _mlflow().exceptions.MlflowException as error:
        raise CheckpointError(
            f"expected a registered model at {uri}, got: {error.message}; look into {tracking_uri}"
        ) from error
    return Path(version.tags.get(URI_TAG, version.source))


def _told(what: str, call: Callable[[], T]) -> T | None:
    """What `call` gives; None, and a line in the log, if MLflow is not there or refuses."""
    logger = logging.getLogger("mlflow.store")  # its tracebacks say no more than our line
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return call()
    except (_mlflow().exceptions.MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        LOG.warning("MLflow has not taken %s: %s", what, reason)
        return None
    finally:
        logger.setLevel(level)


def _producer(client: Any, digest: str) -> Any:
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        filter_string=f"tags.`{DIGEST_TAG}` = '{digest}' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def _client(uri: str) -> Any:
    mlflow = _mlflow()
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except (mlflow.exceptions.MlflowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"expected MLflow at tracking.uri {uri}, got: {reason}; start it, or set another"
        ) from error
    return client


def _mlflow() -> Any:
    # Otherwise it sends telemetry, logs much at INFO, and prints where a run can be seen.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Otherwise a request to a server that is gone takes minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import mlflow  # noqa: PLC0415  # takes seconds, and most commands never ask for it

    return mlflow
