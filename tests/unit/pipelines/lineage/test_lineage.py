"""What a model was made of, from manifests alone; with real training in test_distill.py."""

import shutil

import pytest

from infra.runs.provenance import ArtifactRef, digest_of, relative_uri
from omniforcing_model.weights.checkpoint_files import folder_digest
from pipelines.lineage.lineage import lineage
from tests.worlds.training import CLIPS, publish_model, small_run, write_clips, write_model


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder with clips and two models, the second made of the first."""
    run = tmp_path_factory.mktemp("lineage") / "run"
    config = small_run()
    write_clips(config, run / "dataset")
    teacher, student = (run / "stages" / stage / "model" for stage in ("teacher", "stage_1"))
    from infra.dataset.latent_table import LatentTable

    digest = LatentTable.open(run / "dataset").digest
    clips = ("clips", "dataset", run / "dataset", digest)
    publish(run, teacher, 1, [clips])
    publish(run, student, 2, [("teacher", "model", teacher, folder_digest(teacher)), clips])
    return run


def publish(run, folder, seed, inputs):
    refs = [
        ArtifactRef(
            role=role,
            kind=kind,
            name=place.name,
            digest=digest,
            uri=relative_uri(str(place), folder, run),
        )
        for role, kind, place, digest in inputs
    ]
    stage = folder.parent.name
    publish_model(small_run(), folder, stage, {"of": stage}, refs, seed)


def kinds(nodes):
    return [node.kind for node in nodes]


def test_a_model_leads_back_to_every_clip_and_caption(run_folder):
    nodes = lineage(str(run_folder / "stages" / "stage_1" / "model"))
    assert kinds(nodes)[:3] == ["model", "model", "dataset"]
    student, teacher, dataset = nodes[:3]
    assert student.inputs == (teacher.digest, dataset.digest)
    assert teacher.inputs == (dataset.digest,)
    shards = [node for node in nodes if node.kind == "shard"]
    assert dataset.inputs == tuple(shard.digest for shard in shards)
    clips = {node.digest: node for node in nodes if node.kind == "clip"}
    assert sorted(clips) == sorted(clip for shard in shards for clip in shard.inputs)
    assert len(clips) == CLIPS
    assert all(clip.details["caption_raw"] for clip in clips.values())


def test_every_model_names_its_configuration_and_code(run_folder):
    models = [
        n for n in lineage(str(run_folder / "stages" / "stage_1" / "model")) if n.kind == "model"
    ]
    assert [n.config_digest for n in models] == [
        digest_of({"of": stage}) for stage in ("stage_1", "teacher")
    ]
    assert {n.commit for n in models} == {"c0ffee"}


def test_a_moved_run_still_knows_its_lineage(run_folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run_folder, moved)
    here = lineage(str(run_folder / "stages" / "stage_1" / "model"))
    there = lineage(str(moved / "stages" / "stage_1" / "model"))
    assert [node.digest for node in there] == [node.digest for node in here]
    assert all("problem" not in node.details for node in there)


def test_weights_that_were_replaced_are_named_not_followed(run_folder, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(run_folder, changed)
    publish(changed, changed / "stages" / "teacher" / "model", 7, [])
    nodes = lineage(str(changed / "stages" / "stage_1" / "model"))
    teacher = nodes[1]
    assert "now holds another model" in teacher.details["problem"]
    assert teacher.inputs == ()


def test_clips_that_are_gone_are_named(run_folder, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(run_folder, changed)
    shutil.rmtree(changed / "dataset")
    nodes = lineage(str(changed / "stages" / "stage_1" / "model"))
    assert kinds(nodes) == ["model", "model", "dataset"]
    assert "no dataset" in nodes[-1].details["problem"]


def test_a_model_without_a_manifest_is_a_lineage_of_one(tmp_path):
    folder = write_model(small_run(), tmp_path / "bare")
    (node,) = lineage(folder)
    assert node.name == "bare"
    assert node.digest == folder_digest(tmp_path / "bare")
    assert "no manifest" in node.details["problem"]
