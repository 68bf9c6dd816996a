import pytest

from infra.errors import CheckpointError, OwnershipError
from infra.leases.fence import Fence
from infra.leases.holder import this_process
from infra.runs.checkpoint_store import (
    CheckpointManifest,
    CheckpointStore,
    publish,
    record_of,
    resolve_model,
)

RECIPE = {"stage": "teacher", "settings": {"batch": 4}}


def saved(store, step, recipe=RECIPE, content=b"state"):
    store.begin(step)
    file = store.unfinished(step) / "generator.rank_00.safetensors"
    file.write_bytes(content)
    store.commit(
        CheckpointManifest(
            stage="teacher",
            step=step,
            updates={"generator": step},
            world_size=1,
            recipe=recipe,
            files=(record_of(file),),
        )
    )


def model_in(folder):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    store = CheckpointStore(tmp_path)
    assert store.complete(RECIPE) == []
    saved(store, 9)
    saved(store, 100)
    assert store.complete(RECIPE)[0].step == 100


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path)
    saved(store, 2)
    store.begin(4)
    (store.unfinished(4) / "generator.rank_00.safetensors").write_bytes(b"half")
    assert store.complete(RECIPE)[0].step == 2


def test_a_manifest_that_was_cut_off_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path)
    saved(store, 2)
    saved(store, 4)
    manifest = store.place(4) / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    assert store.complete(RECIPE)[0].step == 2


def test_what_a_killed_run_left_in_a_folder_goes_when_it_is_written_again(tmp_path):
    store = CheckpointStore(tmp_path)
    store.begin(2)
    (store.unfinished(2) / "generator.rank_07.safetensors").write_bytes(b"of eight workers")
    saved(store, 2)
    assert [path.name for path in sorted(store.place(2).iterdir())] == [
        "generator.rank_00.safetensors",
        "manifest.json",
    ]


def test_older_checkpoints_go_and_the_newest_two_stay(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (2, 4, 6, 8):
        saved(store, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000006", "step_000008"]


def attempt(run, number):
    """A store of the attempt `number` at the run, which owns it from now on."""
    (run / ".owner").mkdir(exist_ok=True)
    holder = this_process("distill", number, lease_s=60.0)
    (run / ".owner" / f"{number:06d}.json").write_text(holder.model_dump_json())
    return CheckpointStore(run / "checkpoints", Fence(str(run), number))


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_who_was_replaced_cannot_begin_a_checkpoint(tmp_path):
    stale = attempt(tmp_path, 1)
    saved(stale, 2)
    newer = attempt(tmp_path, 2)
    newer.begin(4)
    (newer.unfinished(4) / "generator.rank_00.safetensors").write_bytes(b"half")
    before = files_in(tmp_path)
    for step in (2, 4, 6):
        with pytest.raises(OwnershipError, match="attempt 2 has taken it over"):
            stale.begin(step)
    assert files_in(tmp_path) == before


def test_who_was_replaced_while_it_wrote_replaces_and_removes_nothing(tmp_path):
    stale = attempt(tmp_path, 1)
    for step in (2, 4):
        saved(stale, step)
    stale.begin(6)
    newer = attempt(tmp_path, 2)
    saved(newer, 6, content=b"newer")
    file = stale.unfinished(6) / "generator.rank_00.safetensors"
    assert not file.parent.exists()
    file.parent.mkdir()  # as if it had begun a moment later
    file.write_bytes(b"stale")
    with pytest.raises(OwnershipError, match="attempt 2 has taken it over"):
        stale.commit(newer.complete(RECIPE)[0])
    assert [manifest.step for manifest in newer.complete(RECIPE)] == [6, 4]
    assert (newer.place(6) / "generator.rank_00.safetensors").read_bytes() == b"newer"


def test_two_attempts_write_the_same_step_apart(tmp_path):
    assert attempt(tmp_path, 1).unfinished(6) != attempt(tmp_path, 2).unfinished(6)


def test_a_checkpoint_of_another_recipe_is_refused_with_the_keys(tmp_path):
    store = CheckpointStore(tmp_path)
    saved(store, 2)
    other = {"stage": "teacher", "settings": {"batch": 8, "new": 1}}
    with pytest.raises(CheckpointError) as refusal:
        store.complete(other)
    assert "settings.batch: 4 -> 8; settings.new: absent -> 1" in str(refusal.value)


def test_a_file_with_other_content_of_the_same_size_is_found(tmp_path):
    store = CheckpointStore(tmp_path)
    saved(store, 2, content=b"state")
    newest = store.complete(RECIPE)[0]
    assert store.damage(newest, share=0, shares=1) is None
    (store.place(2) / "generator.rank_00.safetensors").write_bytes(b"stale")
    assert "expected sha256" in store.damage(newest, share=0, shares=1)
    assert store.damage(newest, share=1, shares=2) is None  # another rank's share


def test_a_published_model_replaces_what_stood_there(tmp_path):
    target = model_in(tmp_path / "model")
    (target / "old.txt").write_text("old")
    publish(model_in(tmp_path / ".unfinished"), target)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert resolve_model(str(target)) == target


def test_a_folder_without_weights_is_not_a_model(tmp_path):
    folder = model_in(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"without model\.safetensors"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("ltx-2-19b-dev.safetensors", "ltx-2-19b-dev.safetensors"),
        ("ltx-2/transformer/diffusion_pytorch_model-00001-of-00008.safetensors", "ltx-2"),
        ("released/generator.safetensors.index.json", "released"),
        ("model/model-00001-of-00002.safetensors", "model"),
    ],
)
def test_checkpoints_of_other_formats_are_models_too(tmp_path, file, named):
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).write_text("")
    assert resolve_model(str(tmp_path / named)) == tmp_path / named


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        resolve_model(str(tmp_path / "nowhere"))


def test_a_registered_model_needs_a_registry():
    with pytest.raises(CheckpointError, match=r"tracking\.uri"):
        resolve_model("models:/tiny-stage_3@champion")
