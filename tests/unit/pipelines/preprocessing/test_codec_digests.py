"""Digests of models: names, types, shapes and first bytes of tensors, and small files whole."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import ConfigError
from infra.presets import load_preset
from infra.storage.package_files import resolve_file
from pipelines.preprocessing.codec_digests import codec_digests, model_digest


def write_model(folder, values, config="{}"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    (folder / "tokenizer.json").write_text("words")
    return folder


def weights(**changes):
    values = torch.arange(5000, dtype=torch.uint8)
    for place, value in changes.items():
        values[int(place.removeprefix("at_"))] = value
    return {"b": values, "a": torch.ones(2, 3)}


def test_a_digest_is_that_of_files_whole_and_of_4096_bytes_of_each_tensor(tmp_path):
    folder = write_model(tmp_path, weights())
    content = b"config.json 2\n{}" + b"tokenizer.json 5\nwords"
    content += b"a F32 (2, 3)\n" + torch.ones(2, 3).numpy().tobytes()
    content += b"b U8 (5000,)\n" + weights()["b"][:4096].numpy().tobytes()
    assert model_digest(folder) == f"starts-sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(("changes", "same"), [({"at_4095": 9}, False), ({"at_4096": 9}, True)])
def test_only_the_first_4096_bytes_of_a_tensor_are_read(tmp_path, changes, same):
    before = model_digest(write_model(tmp_path / "before", weights()))
    after = model_digest(write_model(tmp_path / "after", weights(**changes)))
    assert (before == after) is same


def test_the_spread_over_files_and_other_files_do_not_count(tmp_path):
    one = write_model(tmp_path / "one", weights())
    two = write_model(tmp_path / "two", {"b": weights()["b"]})
    save_file({"a": weights()["a"]}, two / "second.safetensors")
    (two / "readme.md").write_text("more")
    assert model_digest(one) == model_digest(two)
    write_model(two, {"b": weights()["b"]}, config='{"layers": 2}')
    assert model_digest(one) != model_digest(two)


@pytest.mark.parametrize("folder", [None, "", "absent"])
def test_a_model_without_weights_is_refused(tmp_path, folder):
    place = folder and str(tmp_path / folder)
    with pytest.raises(ConfigError, match=r"without safetensors; set data\.rewriter\.model"):
        model_digest(place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="expected the folder of a language model"):
        model_digest(tmp_path / "empty")


def test_the_tiny_codecs_are_read_whole():
    codec = load_preset("tiny").codec
    expected = {
        name: f"sha256:{hashlib.sha256(resolve_file(uri).read_bytes()).hexdigest()}"
        for name, uri in (("video", codec.video), ("audio", codec.audio))
    }
    assert codec_digests(codec) == expected
