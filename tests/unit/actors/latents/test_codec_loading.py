"""Where an actor computes, and where the parts of a release are."""

import pytest
import torch

from actors.latents.codec_loading import (
    load_audio_codec,
    load_text_encoder,
    load_video_codec,
    own_device,
    release_parts,
    text_parts,
)
from infra.errors import ConfigError
from infra.presets import load_preset


class DeviceActor:
    """An actor on a machine with a GPU, which this one may not be."""

    def device(self):
        torch.cuda.is_available = lambda: True
        return own_device()


def test_a_process_of_its_own_takes_the_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == "cpu"


@pytest.mark.ray
def test_an_actor_without_a_claim_leaves_the_gpu_to_others(ray_local):
    import ray

    actor = ray.remote(DeviceActor).options(num_cpus=0.1).remote()
    assert ray.get(actor.device.remote()) == "cpu"
    ray.kill(actor)


def folders(place, *names):
    for name in names:
        (place / name).mkdir(parents=True)
    return place


@pytest.fixture
def needs_ltx2():
    pytest.importorskip("diffusers", reason="needs the extra ltx2")
    pytest.importorskip("transformers", reason="needs the extra ltx2")


def ltx2_codec(place, **changes):
    codec = load_preset("tiny").codec
    return codec.model_copy(update={"kind": "ltx2", "text": str(place), **changes})


def test_the_tiny_codecs_and_their_text_encoder_load():
    config = load_preset("tiny")
    assert type(load_video_codec(config.codec)).__name__ == "TinyVideoCodec"
    assert type(load_audio_codec(config.codec)).__name__ == "TinyAudioCodec"
    encoder = load_text_encoder(config)
    tokens, width = encoder.encode(["a dog"]).video.shape[1:]
    assert (tokens, width) == (config.codec.text_tokens, config.model.text_width)


def test_parts_of_a_release_are_its_folders(tmp_path, needs_ltx2):
    place = folders(tmp_path, "audio_vae", "vocoder")
    parts = release_parts(str(place), "codec.audio", ("audio_vae", "vocoder"))
    assert parts == [place / "audio_vae", place / "vocoder"]


def test_a_part_may_be_named_itself_with_the_others_beside_it(tmp_path, needs_ltx2):
    place = folders(tmp_path, "mine", "vocoder")
    (place / "mine" / "config.json").write_text("{}")
    parts = release_parts(str(place / "mine"), "codec.audio", ("audio_vae", "vocoder"))
    assert parts == [place / "mine", place / "vocoder"]


def test_a_single_file_holds_every_part(tmp_path, needs_ltx2):
    file = tmp_path / "ltx.safetensors"
    file.touch()
    assert release_parts(str(file), "codec.audio", ("audio_vae", "vocoder")) == [file, file]


def test_missing_parts_are_named(tmp_path, needs_ltx2):
    place = folders(tmp_path, "audio_vae")
    with pytest.raises(ConfigError) as caught:
        release_parts(str(place), "codec.audio", ("audio_vae", "vocoder"))
    assert str(caught.value) == (
        f"codec.audio: expected the folders audio_vae, vocoder in {place}, got no vocoder; point to"
        " a release in diffusers' layout, or to its single file"
    )
    with pytest.raises(ConfigError, match=r"^codec\.audio: .*; weights of LTX-2 are yours to obt"):
        release_parts(str(place / "absent"), "codec.audio", ("audio_vae",))


def test_text_has_gemma_its_tokenizer_and_connectors_wherever_they_are(tmp_path, needs_ltx2):
    release = folders(tmp_path / "release", "text_encoder", "tokenizer", "connectors")
    parts = text_parts(ltx2_codec(release))
    assert parts == (release / "text_encoder", release / "tokenizer", release / "connectors")
    gemma = tmp_path / "gemma"
    gemma.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (gemma / name).write_text("{}")
    parts = text_parts(ltx2_codec(gemma, connectors=str(release)))
    assert parts == (gemma, gemma, release / "connectors")


def test_ltx2_without_a_place_of_its_text_is_refused():
    with pytest.raises(ConfigError, match=r"expected codec\.text to name the folder .* got null"):
        text_parts(ltx2_codec("", text=None))
