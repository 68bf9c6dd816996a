"""What decides a dataset besides its clips, and whether one is finished already."""

import pytest

from infra.dataset.manifest import commit
from infra.errors import DatasetError
from infra.presets import load_preset
from infra.runs.provenance import digest_of
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.recipe import (
    finished_before,
    input_digest,
    recipe_of,
    usable_manifest,
)
from tests.worlds.datasets import preprocessed


def recipe(*overrides):
    return recipe_of(load_preset("tiny", overrides))


def changed(*overrides):
    """The parts of the recipe that a setting changes."""
    plain, other = recipe().parts, recipe(*overrides).parts
    return {name for name in plain._fields if getattr(plain, name) != getattr(other, name)}


def test_the_recipe_holds_every_setting_that_decides_a_row():
    config = load_preset("tiny")
    values = recipe().values
    gates = config.data.gates.model_dump(exclude={"max_caption_chars"})
    assert values["survey"] == {
        "version": 2,
        "split": config.data.split.model_dump(),
        "sizes": [(64, 64)],
        "seconds": 3,
        "gates": gates,
    }
    codecs = {name: values["latents"]["codecs"][name] for name in ("video", "audio")}
    assert recipe().codecs == codecs
    meter = values["latents"].pop("loudness_meter")
    assert meter.startswith("pyloudnorm ")
    assert values["latents"] == {
        "version": 3,
        "seconds": 3,
        "gates": gates,
        "loudness_lufs": None,
        "codecs": codecs,
        "codec_kind": "tiny",
        "block_layout": "paper",
    }
    assert values["text"].pop("language_identifier").startswith("py3langid ")
    assert values["text"] == {
        "version": 2,
        "rewriter": {"kind": "grammar"},
        "codecs": {},
        "codec_kind": "tiny",
        "tokens": 24,
        "width": 64,
    }
    assert values["max_caption_chars"] == 2000


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.split.kind=fixed", {"survey"}),
        ("data.width=96", {"survey"}),
        ("data.gates.min_width=40", {"survey", "latents"}),
        ("data.seconds=1", {"survey", "latents"}),
        ("data.loudness_lufs=-20", {"latents"}),
        ("codec.text_tokens=30", {"text"}),
        ("data.gates.max_caption_chars=9", set()),
        ("data.rows_per_shard=3", set()),
        ("data.decode_timeout_s=9", set()),
    ],
)
def test_a_setting_changes_the_parts_that_it_decides(override, parts):
    assert changed(override) == parts


def test_each_part_is_the_digest_of_its_values():
    for name, digest in recipe().parts._asdict().items():
        assert digest == digest_of(recipe().values[name])


def test_a_rewriter_is_its_prompt_model_and_limits_and_not_its_place():
    served = [
        "data.rewriter.kind=endpoint",
        "data.rewriter.model=gemma",
        "data.rewriter.url=http://one/v1",
    ]
    values = recipe(*served).values["text"]["rewriter"]
    assert set(values) == {"kind", "prompt", "model", "max_new_tokens", "min_words", "max_words"}
    assert (values["kind"], values["model"]) == ("endpoint", "gemma")
    moved = recipe(*served[:2], "data.rewriter.url=http://two/v1", "data.rewriter.retries=9")
    assert moved.parts == recipe(*served).parts
    assert recipe(*served, "data.rewriter.max_words=77").parts != moved.parts


def test_a_whole_dataset_of_the_same_listing_and_recipe_is_finished(tmp_path):
    settings, store = recipe(), ObjectStore(tmp_path)
    assert input_digest(settings, "sha256:l") == digest_of(["sha256:l", settings.values])
    manifest = preprocessed(tmp_path)
    provenance = manifest.provenance | {"input_digest": input_digest(settings, "sha256:l")}
    manifest = manifest.model_copy(update={"provenance": provenance})
    assert finished_before(settings, "sha256:l", manifest, store) == manifest
    assert finished_before(settings, "sha256:other", manifest, store) is None
    assert finished_before(recipe("data.seconds=1"), "sha256:l", manifest, store) is None
    assert finished_before(settings, "sha256:l", None, store) is None
    store.delete(manifest.shards[0].name)
    assert finished_before(settings, "sha256:l", manifest, store) is None


def test_a_damaged_manifest_is_none_and_one_of_another_kind_is_refused(tmp_path):
    store = ObjectStore(tmp_path)
    assert usable_manifest(store) is None
    manifest = commit(tmp_path, "latents", [], {})
    assert usable_manifest(store) == manifest
    store.write("manifest.json", b"{")
    assert usable_manifest(store) is None
    commit(tmp_path, "trajectories", [], {})
    expected = r"expected a dataset of latents or a new folder at .*, got trajectories; name"
    with pytest.raises(DatasetError, match=expected):
        usable_manifest(store)
