"""What decides a dataset besides its clips, and whether one is finished already."""

import pytest
import torch

from infra.config import GatesConfig
from infra.dataset.manifest import commit
from infra.errors import DatasetError
from infra.media.versions import decoding_versions
from infra.presets import load_preset
from infra.runs.provenance import differing_keys, digest_of
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing import recipe as recipe_module
from pipelines.preprocessing.recipe import (
    finished_before,
    input_digest,
    recipe_of,
    usable_manifest,
)
from tests.worlds.datasets import preprocessed

OTHER_LIMITS = {
    "max_seconds": 601,
    "max_file_mb": 201,
    "max_source_pixels": 10_000_001,
    "min_height": 33,
    "min_width": 33,
    "silence_dbfs": -61,
    "max_clipped_share": 0.06,
    "max_missing_sound_s": 0.2,
    "max_frame_jitter": 0.3,
    "max_frozen_share": 0.99,
    "max_caption_chars": 2001,
}


def recipe(*overrides):
    return recipe_of(load_preset("tiny", overrides))


def changed(*overrides):
    """The parts of the recipe that a setting changes."""
    plain, other = recipe().parts, recipe(*overrides).parts
    return {name for name in plain._fields if getattr(plain, name) != getattr(other, name)}


def test_the_recipe_holds_every_setting_that_decides_a_row():
    config = load_preset("tiny")
    values = recipe().values
    assert values["survey"] == {
        "version": 4,
        "decoder": decoding_versions(),
        "split": {"kind": "first"},
        "seconds": 3,
    }
    codecs = {name: values["latents"]["codecs"][name] for name in ("video", "audio")}
    assert recipe().codecs == codecs
    meter = values["latents"].pop("loudness_meter")
    assert meter.startswith("pyloudnorm ")
    torch_alone = {"torch": torch.__version__.partition("+")[0]}
    assert values["latents"].pop("encoder") == torch_alone
    assert values["text"].pop("encoder") == torch_alone
    assert values["latents"] == {
        "version": 4,
        "decoder": decoding_versions(),
        "seconds": 3,
        "loudness_lufs": None,
        "codecs": codecs,
        "codec_kind": "tiny",
        "row_latents": {"video": 10, "audio": 76},
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
    assert values["gates"] == config.data.gates.model_dump()
    assert (values["sizes"], values["max_windows"]) == ([[64, 64]], 100)


def test_what_finds_shots_decides_only_if_shots_are_sought():
    shots = recipe("data.split.kind=shots").values["survey"]["split"]
    assert shots.pop("shot_detector").startswith("scenedetect-headless ")
    assert shots == {"kind": "shots", "shot_threshold": 27}
    assert changed("data.split.shot_threshold=9") == set()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.split.kind=fixed", {"survey"}),
        ("data.width=96", set()),
        ("data.buckets=[{height: 64, width: 96}]", set()),
        ("data.split.max_windows=3", set()),
        *((f"data.gates.{name}={value}", set()) for name, value in OTHER_LIMITS.items()),
        ("data.seconds=1", {"survey", "latents"}),
        ("data.loudness_lufs=-20", {"latents"}),
        ("codec.text_tokens=30", {"text"}),
        ("data.rows_per_shard=3", set()),
        ("data.decode_timeout_s=9", set()),
    ],
)
def test_a_setting_changes_the_parts_that_it_decides(override, parts):
    assert changed(override) == parts


def test_every_gate_is_in_the_recipe_and_in_no_part_of_it():
    assert OTHER_LIMITS.keys() == GatesConfig.model_fields.keys()
    for name, value in OTHER_LIMITS.items():
        other = recipe(f"data.gates.{name}={value}")
        assert input_digest(other, "sha256:l") != input_digest(recipe(), "sha256:l")
        (line,) = differing_keys(recipe().values, other.values)
        assert line.startswith(f"gates.{name}: ")


def test_another_decoder_changes_the_clips_and_the_latents_and_is_named(monkeypatch):
    plain = recipe()
    versions = decoding_versions()
    monkeypatch.setattr(recipe_module, "decoding_versions", lambda: versions | {"av": "99.1"})
    other = recipe()
    assert other.parts.survey != plain.parts.survey
    assert other.parts.latents != plain.parts.latents
    assert other.parts.text == plain.parts.text
    assert differing_keys(plain.values, other.values) == [
        f"latents.decoder.av: {versions['av']} -> 99.1",
        f"survey.decoder.av: {versions['av']} -> 99.1",
    ]


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
