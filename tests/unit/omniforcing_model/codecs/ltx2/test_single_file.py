import pytest

from omniforcing_model.codecs.ltx2.single_file import VIDEO_RELEASES, names_of, release_of
from omniforcing_model.errors import WeightsError


@pytest.mark.parametrize(
    ("part", "source", "name"),
    [
        (
            "vae",
            "vae.encoder.down_blocks.0.res_blocks.1.x",
            "encoder.down_blocks.0.resnets.1.x",
        ),
        ("vae", "vae.encoder.down_blocks.1.conv.x", "encoder.down_blocks.0.downsamplers.0.conv.x"),
        ("vae", "vae.encoder.down_blocks.6.y", "encoder.down_blocks.3.y"),
        ("vae", "vae.encoder.down_blocks.7.y", "encoder.down_blocks.3.downsamplers.0.y"),
        ("vae", "vae.encoder.down_blocks.8.y", "encoder.mid_block.y"),
        ("vae", "vae.decoder.up_blocks.0.y", "decoder.mid_block.y"),
        ("vae", "vae.decoder.up_blocks.1.y", "decoder.up_blocks.0.upsamplers.0.y"),
        ("vae", "vae.decoder.up_blocks.2.y", "decoder.up_blocks.0.y"),
        ("vae", "vae.decoder.up_blocks.8.y", "decoder.up_blocks.3.y"),
        ("vae", "vae.decoder.last_scale_shift_table", "decoder.scale_shift_table"),
        ("vae", "vae.per_channel_statistics.mean-of-means", "latents_mean"),
        ("audio_vae", "audio_vae.per_channel_statistics.std-of-means", "latents_std"),
        ("vocoder", "vocoder.ups.3.weight", "upsamplers.3.weight"),
        ("vocoder", "vocoder.bwe_generator.resblocks.0.x", "bwe_generator.resnets.0.x"),
        ("vocoder", "vocoder.conv_pre.bias", "conv_in.bias"),
        ("connectors", "text_embedding_projection.aggregate_embed.w", "text_proj_in.w"),
        ("connectors", "text_embedding_projection.audio_aggregate_embed.w", "audio_text_proj_in.w"),
        (
            "connectors",
            "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.1.attn1.q_norm.w",
            "video_connector.transformer_blocks.1.attn1.norm_q.w",
        ),
    ],
)
def test_names_of_ltx_2_become_those_of_diffusers(part, source, name):
    assert names_of(part, ["model.diffusion_model.patchify_proj.weight", source]) == {name: source}


def test_statistics_that_are_not_for_decoding_are_left_out():
    others = [
        "vae.per_channel_statistics.channel",
        "vae.per_channel_statistics.mean-of-stds",
        "vae.x",
    ]
    assert names_of("vae", others) == {"x": "vae.x"}


def test_a_file_without_the_part_is_refused():
    with pytest.raises(WeightsError, match=r"expected the tensors of vocoder .* got none"):
        names_of("vocoder", ["vae.x", "audio_vae.vocoder.y"])


def test_the_release_shows_in_its_tensors():
    assert release_of("vocoder", ["conv_in.x"]).kind == "LTX2Vocoder"
    assert release_of("vocoder", ["bwe_generator.x"]).kind == "LTX2VocoderWithBWE"
    assert "proj_bias" not in release_of("connectors", ["text_proj_in.x"]).config
    assert release_of("connectors", ["video_text_proj_in.x"]).config["proj_bias"] is True
    assert release_of("audio_vae", []).kind == "AutoencoderKLLTX2Audio"
    for name, release, conditioned in (
        ("decoder.up_blocks.2.x", "ltx-2.0", False),
        ("decoder.up_blocks.3.x", "ltx-2.3", False),
        ("decoder.time_embedder.x", "ltx-2.0", True),
    ):
        expected = {**VIDEO_RELEASES[release].config, "timestep_conditioning": conditioned}
        assert release_of("vae", [name]).config == expected
