"""A stage without steps: its model is the one it starts from, and nothing is started to make it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from infra.errors import CheckpointError, ConfigError
from infra.runs.provenance import read_model_manifest
from infra.runs.tracking import RunIndex
from infra.terminal.progress import SilentProgress
from omniforcing_model.weights.checkpoint_files import folder_digest, load_model
from pipelines.lineage.lineage import lineage
from pipelines.training.distill import distill
from tests.worlds.training import small_run, write_clips, write_model

# Nobody answers there, and no cluster has so many CPUs: whoever starts workers fails.
NO_CLUSTER = ("cluster.address=127.0.0.1:1", "cluster.distillation_worker.cpus=100000")


def without_steps(*stages, settings=()):
    none = [f"stages.{stage}.optimiser.steps=0" for stage in stages]
    return small_run(*NO_CLUSTER, *none, *settings)


@pytest.fixture
def run(tmp_path):
    clips = write_clips(small_run(), tmp_path / "clips")

    def of(config, *stages, **start):
        return distill(config, clips, str(tmp_path / "run"), stages, start, SilentProgress())

    return of


def model_of(tmp_path, stage):
    return tmp_path / "run" / "stages" / stage / "model"


def test_its_model_has_the_weights_and_the_digest_of_its_start(run, tmp_path):
    start = Path(write_model(small_run(), tmp_path / "start"))
    summary = run(without_steps("stage_1"), "stage_1", teacher=str(start))
    made = model_of(tmp_path, "stage_1")
    assert [stage.made_now for stage in summary.stages] == [True]
    assert summary.digest == folder_digest(made) == folder_digest(start)
    one, other = (load_file(folder / "model.safetensors") for folder in (made, start))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
    assert (made / "model.safetensors").samefile(start / "model.safetensors")
    load_model(made)
    notes = json.loads((made / "config.json").read_text())
    assert (notes["name"], notes["stage"]) == ("tiny-stage_1", "stage_1")
    assert not (tmp_path / "run" / ".training").exists()
    assert not (made.parent / "checkpoints").exists()


def test_its_recipe_says_so(run, tmp_path):
    start = write_model(small_run(), tmp_path / "start")
    run(without_steps("stage_1"), "stage_1", teacher=start)
    manifest = read_model_manifest(model_of(tmp_path, "stage_1"))
    assert manifest.recipe["settings"]["optimiser"]["steps"] == manifest.step == 0
    assert manifest.recipe["inputs"] == {"generator": manifest.digest}
    with pytest.raises(CheckpointError, match=r"optimiser\.steps: 0 -> 4"):
        run(small_run(*NO_CLUSTER), "stage_1", teacher=start)


def test_one_after_another_hand_on_the_same_model_and_a_rerun_makes_none(run, tmp_path):
    config = without_steps("teacher", "stage_1", "stage_2", "stage_3")
    start = write_model(small_run(), tmp_path / "start")
    stages = ("teacher", "stage_1", "stage_2", "stage_3")
    summary = run(config, *stages, generator=start)
    assert [stage.stage for stage in summary.stages] == list(stages)  # and no trajectories
    assert {stage.digest for stage in summary.stages} == {folder_digest(Path(start))}
    again = run(config, *stages, generator=start)
    assert not any(stage.made_now for stage in again.stages)
    nodes = lineage(summary.model)
    assert [(node.kind, node.inputs) for node in nodes] == [("model", ())]
    assert "no manifest beside the weights" in nodes[0].details["problem"]


def test_mlflow_registers_it_and_knows_its_digest_once(run, tmp_path):
    config = without_steps("stage_1", "stage_2")
    start = write_model(small_run(), tmp_path / "start")
    summary = run(config, "stage_1", "stage_2", teacher=start)
    assert RunIndex(summary.tracking).producer(summary.digest).name == "tiny-stage_1"
    nodes = lineage("models:/tiny-stage_2@candidate", summary.tracking)
    assert [node.name for node in nodes] == ["tiny-stage_2"]


def test_the_start_may_be_removed_afterwards(run, tmp_path):
    start = Path(write_model(small_run(), tmp_path / "start"))
    digest = folder_digest(start)
    summary = run(without_steps("stage_1"), "stage_1", teacher=str(start))
    for file in start.iterdir():
        file.unlink()
    assert folder_digest(Path(summary.model)) == digest


def test_a_start_of_another_shape_is_refused_and_leaves_nothing(run, tmp_path):
    start = write_model(small_run("model.layers=2"), tmp_path / "start")
    with pytest.raises(ConfigError, match=r"the generator of stage_1 .*layers: 2 -> 1"):
        run(without_steps("stage_1"), "stage_1", teacher=start)
    assert not model_of(tmp_path, "stage_1").exists()
