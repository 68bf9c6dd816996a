"""A run of kind ltx2 finds its codecs and text encoder in a folder of diffusers' layout."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.latents.codec_loading import load_audio_codec, load_text_encoder, load_video_codec
from actors.latents.latent_encoder import LatentEncoder
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.codecs.ltx2.audio_codec import Ltx2AudioCodec
from omniforcing_model.codecs.ltx2.text_encoder import Ltx2TextEncoder
from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec, VideoDecoding
from tests.parity.ltx2_codec_models import (
    TEXT_TOKENS,
    audio_vae,
    connectors,
    gemma,
    tokenizer,
    video_vae,
    vocoder,
)

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder with all parts; the VAE in shards."""
    folder = tmp_path_factory.mktemp("ltx-2")
    video_vae().save_pretrained(folder / "vae", max_shard_size="300KB")
    assert len(list((folder / "vae").glob("*.safetensors"))) > 1
    audio_vae().save_pretrained(folder / "audio_vae")
    vocoder().save_pretrained(folder / "vocoder")
    gemma().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    connectors().save_pretrained(folder / "connectors")
    return folder


def run_of(folder, *overrides):
    places = [f"codec.{name}={folder}" for name in ("video", "audio", "text")]
    tokens = f"codec.text_tokens={TEXT_TOKENS}"
    return load_preset("tiny", ["codec.kind=ltx2", tokens, *places, *overrides])


def test_all_parts_load_as_they_were_saved(release):
    config = run_of(release)
    latents = torch.randn(1, 4, 8, 2, 2)
    video = load_video_codec(config.codec)
    expected = Ltx2VideoCodec(video_vae(), VideoDecoding("causal"))
    assert torch.equal(video.decode(latents), expected.decode(latents))
    sound = torch.randn(1, 4, 8)
    audio = load_audio_codec(config.codec)
    expected = Ltx2AudioCodec(audio_vae(), vocoder())
    assert torch.equal(audio.decode(sound), expected.decode(sound))
    assert audio.sample_rate == 24_000
    text = load_text_encoder(config).encode(["a red disc"])
    expected = Ltx2TextEncoder(gemma(), tokenizer(), connectors(), TEXT_TOKENS)
    assert torch.equal(text.video, expected.encode(["a red disc"]).video)


def test_a_part_may_be_named_by_its_own_folder(release):
    own = [f"codec.video={release}/vae", f"codec.audio={release}/audio_vae"]
    config = run_of(release, *own, f"codec.text={release}/text_encoder")
    assert load_video_codec(config.codec).latent_channels == 8
    assert load_audio_codec(config.codec).sample_rate == 24_000
    assert load_text_encoder(config).encode([""]).video.shape == (1, TEXT_TOKENS, 16)


def test_the_vocoder_of_2_3_is_known_by_its_config(release, tmp_path):
    for name in ("audio_vae",):
        (tmp_path / name).symlink_to(release / name)
    vocoder("2.3").save_pretrained(tmp_path / "vocoder")
    assert load_audio_codec(run_of(tmp_path).codec).sample_rate == 48_000


def test_how_a_stream_is_decoded_is_the_runs_choice(release):
    how = ["mode=shipped", "left=2", "right=1"]
    config = run_of(release, *(f"codec.video_decode.{value}" for value in how))
    codec = load_video_codec(config.codec)
    assert codec.decoding == VideoDecoding("shipped", 2, 1)
    decoder = codec.decoder()
    counts = [decoder.decode(torch.zeros(1, 3, 8, 2, 2), final).shape[1] for final in (False, True)]
    assert counts == [9, 32]


def test_half_precision_is_for_gpus(release):
    config = run_of(release, "codec.dtype=bfloat16")
    assert load_video_codec(config.codec).vae.dtype == torch.float32
    # What a GPU gets, without one.
    half = Ltx2VideoCodec.load(release / "vae", dtype=torch.bfloat16)
    latents = torch.randn(1, 4, 8, 2, 2)
    error = (half.decode(latents) - Ltx2VideoCodec(video_vae()).decode(latents)).abs().mean()
    assert half.vae.dtype == torch.bfloat16
    assert 0 < error < 0.05
    assert half.encode(torch.zeros(1, 9, 3, 64, 64)).dtype == torch.float32


def test_clips_are_encoded_with_them(release):
    encoder = LatentEncoder(run_of(release, "data.seconds=1"))
    frames = torch.randint(0, 256, (25, 64, 64, 3), dtype=torch.uint8).numpy()
    latents = encoder.encode(frames, 0.1 * torch.randn(2, 16_667).numpy())
    assert (latents.video.shape, latents.audio.shape) == ((4, 8, 2, 2), (26, 8))


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("vae", lambda run: load_video_codec(run.codec)),
        ("vocoder", lambda run: load_audio_codec(run.codec)),
        ("connectors", load_text_encoder),
        ("tokenizer", load_text_encoder),
    ],
)
def test_what_is_missing_is_named_in_one_line(release, tmp_path, part, load):
    for folder in release.iterdir():
        if folder.name != part:
            (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(ConfigError, match=rf"^codec\.\w+: expected .*{part}") as refusal:
        load(run_of(tmp_path))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="yours to obtain"):
        load(run_of(tmp_path / "nowhere"))


def test_a_file_that_lacks_a_tensor_is_refused_rather_than_filled_with_noise(release, tmp_path):
    audio_vae().save_pretrained(tmp_path / "audio_vae")
    vocoder().save_pretrained(tmp_path / "vocoder")
    file = tmp_path / "vocoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    bias = tensors.pop("conv_out.bias")
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"1 missing keys: conv_out\.bias"):
        load_audio_codec(run_of(tmp_path).codec)
    save_file(tensors | {"conv_out.bias": bias, "time_embedder.weight": bias.clone()}, file)
    with pytest.raises(ConfigError, match=r"1 unexpected keys: time_embedder\.weight"):
        load_audio_codec(run_of(tmp_path).codec)


def test_weights_that_are_not_safetensors_are_not_read(release, tmp_path):
    vae = tmp_path / "vae"
    video_vae().save_pretrained(vae, safe_serialization=False)
    assert list(vae.glob("*.bin"))
    with pytest.raises(ConfigError, match="safetensors"):
        load_video_codec(run_of(tmp_path).codec)


def test_a_run_without_a_text_encoder_says_so(release):
    with pytest.raises(ConfigError, match=r"codec\.text"):
        load_text_encoder(run_of(release, "codec.text=null"))
