"""A dataset's run in MLflow: once for each digest, wherever it is asked for."""

import logging

import pytest

from infra.dataset.manifest import read_manifest
from infra.presets import load_preset
from infra.runs.tracking import Tracker, default_tracking_uri
from pipelines.lineage.dataset_tracking import record_dataset, track_dataset, tracking_address
from tests.worlds.datasets import summary_of
from tests.worlds.reports import write_dataset

SUMMARY = summary_of(4.0, {"ClipDecoder": 3.0}, 10)
PAGE = "<!doctype html><p>a report</p>"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = write_dataset(tmp_path_factory.mktemp("tracked"), rows=1)
    world.out.write("report.html", PAGE.encode())
    return world


@pytest.fixture(scope="module")
def address(world):
    assert tracked(world)
    return tracking_address(world.config, world.out)


def tracked(world, config=None):
    manifest, report = read_manifest(world.out), f"{world.out.uri}/report.html"
    return track_dataset(config or world.config, manifest, world.out.uri, SUMMARY, report)


def client_of(address):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=address, registry_uri=address)


def runs_at(address):
    client = client_of(address)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_without_an_address_the_run_is_in_the_folder_of_the_dataset(world, address):
    assert address == f"sqlite:///{world.out.uri}/mlflow.db"
    assert world.out.has("mlflow.db")


def test_the_run_has_settings_figures_and_where_it_came_from(world, address):
    (run,) = runs_at(address)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny-preprocess"
    assert run.data.params["data.seconds"] == "1"
    assert run.data.params["codec.kind"] == "tiny"
    metrics = run.data.metrics
    assert (metrics["rows"], metrics["ok"], metrics["quarantined.unreadable"]) == (8, 1, 2)
    assert (metrics["seconds"], metrics["rows_per_second"]) == (4, 2.5)
    assert metrics["stage_seconds.ClipDecoder"] == 3
    tags = run.data.tags
    assert tags["omniforcing.kind"] == "preprocess"
    assert tags["omniforcing.digest"] == read_manifest(world.out).digest
    assert tags["omniforcing.uri"] == world.out.uri
    assert tags["omniforcing.commit"] == "c0ffee"
    assert tags["omniforcing.recipe_digest"].startswith("sha256:")
    assert tags["omniforcing.clips"] == world.clips.uri
    assert tags["omniforcing.report"] == f"{world.out.uri}/report.html"


def test_the_report_is_an_artifact_of_the_run(address, tmp_path):
    (run,) = runs_at(address)
    path = client_of(address).download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert (tmp_path / "report.html").read_text() == PAGE
    assert path == str(tmp_path / "report.html")


def test_a_dataset_that_is_known_is_not_logged_again(world, address):
    assert tracked(world)
    tracker = Tracker(address, world.config.tracking.experiment)
    assert not record_dataset(tracker, "tiny", read_manifest(world.out), world.out.uri)
    assert len(runs_at(address)) == 1


def test_a_configured_address_is_used_and_a_report_that_cannot_be_kept_is_named(
    world, tmp_path, caplog
):
    (tmp_path / "artifacts").write_text("a file where artifacts would be")
    address = default_tracking_uri(None, tmp_path)
    experiment = world.config.tracking.experiment
    Tracker(address, experiment, tmp_path / "artifacts")  # whose artifacts have no place
    config = load_preset("tiny", ["data.seconds=1", f"tracking.uri={address}"])
    assert tracking_address(config, world.out) == address
    assert tracked(world, config)
    (run,) = runs_at(address)
    assert run.info.status == "FINISHED"
    assert run.data.tags["omniforcing.report"] == f"{world.out.uri}/report.html"
    assert "leaving report.html out of MLflow's artifacts" in caplog.text


def test_a_dataset_in_object_storage_without_an_address_is_reported_not_tracked(world, caplog):
    caplog.set_level(logging.INFO, "pipelines.lineage.dataset_tracking")
    uri = "s3://bucket/dataset"
    manifest = read_manifest(world.out)
    assert not track_dataset(world.config, manifest, uri, SUMMARY, f"{uri}/report.html")
    (line,) = caplog.messages
    assert "set tracking.uri" in line
