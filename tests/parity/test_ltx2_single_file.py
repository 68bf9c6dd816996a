"""Codecs and connectors out of LTX-2's single file, whose names are not diffusers'."""

from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

from actors.latents.codec_loading import load_audio_codec, load_text_encoder, load_video_codec
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.codecs.ltx2.single_file import names_of, read_part, release_of
from omniforcing_model.errors import WeightsError
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

MODELS = {
    ("vae", "2.0"): lambda: video_vae("2.0"),
    ("vae", "2.0 with a timestep"): lambda: video_vae("2.0 with a timestep"),
    ("vae", "2.3"): lambda: video_vae("2.3"),
    ("audio_vae", "2.0"): audio_vae,
    ("vocoder", "2.0"): lambda: vocoder("2.0"),
    ("vocoder", "2.3"): lambda: vocoder("2.3"),
    ("connectors", "2.0"): lambda: connectors("2.0"),
    ("connectors", "2.3"): lambda: connectors("2.3"),
}
# Of the models as they were released; with a timestep none was.
PARAMETERS = {
    ("vae", "2.0"): 1.222e9,
    ("vae", "2.3"): 0.726e9,
    ("audio_vae", "2.0"): 53.2e6,
    ("vocoder", "2.0"): 55.6e6,
    ("vocoder", "2.3"): 128.5e6,
    ("connectors", "2.0"): 1.431e9,
    ("connectors", "2.3"): 3.172e9,
}
# The start of a name in diffusers, and in the single file; the first that fits counts.
STARTS = {
    "vae": [
        ("latents_mean", "vae.per_channel_statistics.mean-of-means"),
        ("latents_std", "vae.per_channel_statistics.std-of-means"),
        ("encoder.mid_block.", "vae.encoder.down_blocks.8."),
        ("decoder.mid_block.", "vae.decoder.up_blocks.0."),
        ("decoder.time_embedder.", "vae.decoder.last_time_embedder."),
        ("decoder.scale_shift_table", "vae.decoder.last_scale_shift_table"),
        *(
            (f"{half}.{way}_blocks.{n}.{rest}", f"vae.{half}.{way}_blocks.{2 * n + place}.")
            for half, way, own in (("encoder", "down", 0), ("decoder", "up", 2))
            for n in range(4)
            for rest, place in ((f"{way}samplers.0.", 1), ("", own))
        ),
        ("", "vae."),
    ],
    "audio_vae": [
        ("latents_mean", "audio_vae.per_channel_statistics.mean-of-means"),
        ("latents_std", "audio_vae.per_channel_statistics.std-of-means"),
        ("", "audio_vae."),
    ],
    "vocoder": [("", "vocoder.")],
    "connectors": [
        ("text_proj_in.", "text_embedding_projection.aggregate_embed."),
        ("video_text_proj_in.", "text_embedding_projection.video_aggregate_embed."),
        ("audio_text_proj_in.", "text_embedding_projection.audio_aggregate_embed."),
        ("video_connector.", "model.diffusion_model.video_embeddings_connector."),
        ("audio_connector.", "model.diffusion_model.audio_embeddings_connector."),
    ],
}
RENAMES_WITHIN = {
    "vae": {".resnets.": ".res_blocks."},
    "vocoder": {
        "upsamplers.": "ups.",
        "resnets.": "resblocks.",
        "conv_in.": "conv_pre.",
        "conv_out.": "conv_post.",
        "act_out.": "act_post.",
        ".downsample.": ".downsample.lowpass.",
    },
    "connectors": {
        ".transformer_blocks.": ".transformer_1d_blocks.",
        ".norm_q.": ".q_norm.",
        ".norm_k.": ".k_norm.",
    },
}


def as_released(part, name):
    """The name in LTX-2's file of the tensor that diffusers calls `name`."""
    start, released = next(pair for pair in STARTS[part] if name.startswith(pair[0]))
    name = released + name.removeprefix(start)
    for ours, theirs in RENAMES_WITHIN.get(part, {}).items():
        name = name.replace(ours, theirs)
    return name


def tensors_of(part, model):
    return {as_released(part, name): t.clone() for name, t in model.state_dict().items()}


OTHER_TENSORS = {
    "model.diffusion_model.transformer_blocks.0.attn1.q_norm.weight": torch.zeros(2),
    "vae.per_channel_statistics.mean-of-stds": torch.zeros(8),
    "vae.per_channel_statistics.channel": torch.zeros(8),
}


@pytest.mark.parametrize(("part", "kind"), MODELS)
def test_a_part_has_the_tensors_that_went_into_the_file(part, kind, tmp_path):
    model = MODELS[part, kind]()
    save_file(tensors_of(part, model) | OTHER_TENSORS, tmp_path / "ltx-2.safetensors")
    read = read_part(part, tmp_path / "ltx-2.safetensors", sizes=model.config)
    assert type(read) is type(model)
    expected = model.state_dict()
    assert read.state_dict().keys() == expected.keys()
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    everything = [*read.parameters(), *read.buffers()]
    assert all(tensor.device.type == "cpu" for tensor in everything)
    half = read_part(part, tmp_path / "ltx-2.safetensors", torch.bfloat16, model.config)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize(("part", "kind"), PARAMETERS)
def test_the_release_is_known_by_the_names_of_its_tensors(part, kind):
    """And its class, as configured, has tensors of those very names, at full size too."""
    small = MODELS[part, kind]()
    names = names_of(part, [as_released(part, name) for name in small.state_dict()])
    release = release_of(part, names)
    assert type(small).__name__ == release.kind
    with torch.device("meta"):
        full = getattr(import_module(release.module), release.kind).from_config(release.config)
    stored = [as_released(part, name) for name in full.state_dict()]
    assert set(names_of(part, stored)) == set(full.state_dict())
    assert release_of(part, names_of(part, stored)) == release
    parameters = sum(tensor.numel() for tensor in full.parameters())
    assert parameters == pytest.approx(PARAMETERS[part, kind], rel=0.005)


def test_a_decoder_with_a_timestep_is_known_by_its_tensors():
    names = [as_released("vae", name) for name in video_vae("2.0 with a timestep").state_dict()]
    assert release_of("vae", names_of("vae", names)).config["timestep_conditioning"]
    names = [as_released("vae", name) for name in video_vae().state_dict()]
    assert not release_of("vae", names_of("vae", names)).config["timestep_conditioning"]


def test_our_names_of_the_vaes_are_those_of_diffusers_own_loader():
    from diffusers.loaders.single_file_utils import (
        convert_ltx2_audio_vae_to_diffusers,
        convert_ltx2_vae_to_diffusers,
    )

    for part, model, theirs in (
        ("vae", video_vae(), convert_ltx2_vae_to_diffusers),
        ("audio_vae", audio_vae(), convert_ltx2_audio_vae_to_diffusers),
    ):
        tensors = tensors_of(part, model)
        ours = {name: tensors[source] for name, source in names_of(part, tensors).items()}
        expected = theirs(dict(tensors))
        assert ours.keys() == expected.keys()
        assert all(ours[name] is expected[name] for name in ours)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    file = tmp_path / "ltx-2.safetensors"
    model = audio_vae()
    tensors = tensors_of("audio_vae", model)
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="other shapes of"):
        read_part("audio_vae", file)
    with pytest.raises(WeightsError, match=r"tensors of vae .*got none"):
        read_part("vae", file)
    lacking = dict(tensors)
    del lacking["audio_vae.decoder.conv_out.conv.bias"]
    save_file(lacking, file)
    with pytest.raises(WeightsError, match=r"without decoder\.conv_out\.conv\.bias"):
        read_part("audio_vae", file, sizes=model.config)
    save_file(tensors | {"audio_vae.decoder.more": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"unknown decoder\.more"):
        read_part("audio_vae", file, sizes=model.config)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cut off"):
        read_part("audio_vae", file)


def test_a_run_may_name_the_file_and_says_what_is_wrong_with_it(tmp_path):
    file = tmp_path / "ltx-2.safetensors"
    save_file(tensors_of("vae", video_vae()), file)
    places = [f"codec.{name}={file}" for name in ("video", "audio")]
    config = load_preset("tiny", ["codec.kind=ltx2", *places])
    with pytest.raises(ConfigError, match=r"codec\.video: .*a file without decoder"):
        load_video_codec(config.codec)
    with pytest.raises(ConfigError, match=r"codec\.audio: .*got none"):
        load_audio_codec(config.codec)


def test_gemma_and_the_connectors_may_lie_apart(tmp_path):
    gemma().save_pretrained(tmp_path / "gemma")
    tokenizer().save_pretrained(tmp_path / "gemma")
    connectors().save_pretrained(tmp_path / "joined")
    places = [f"codec.text={tmp_path}/gemma", f"codec.connectors={tmp_path}/joined"]
    tokens = f"codec.text_tokens={TEXT_TOKENS}"
    encoder = load_text_encoder(load_preset("tiny", ["codec.kind=ltx2", tokens, *places]))
    assert encoder.encode(["a red disc"]).audio.shape == (1, TEXT_TOKENS, 16)
    with pytest.raises(ConfigError, match=r"codec\.connectors: .*no connectors"):
        load_text_encoder(load_preset("tiny", ["codec.kind=ltx2", tokens, *places[:1]]))
