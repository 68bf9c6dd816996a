"""Preprocessing on a GPU whose actors share it: the models of the preset `paper`, in bfloat16."""

import numpy as np
import pytest
import torch

from actors.latents.codec_loading import load_audio_codec, load_text_encoder, load_video_codec
from infra.dataset.latent_table import LatentTable
from infra.terminal.progress import SilentProgress
from omniforcing_model.codecs.mel import SAMPLE_RATE
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import write_beacon_clip, write_captions
from tests.worlds.ltx2_release import SMALL_CLIPS, run_of, write_preprocessing
from tests.worlds.openai_server import LEARNT

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

# Three models on one GPU, a share each.
SHARES = (
    "cluster.clip_surveyor={replicas: 1, cpus: 1, gpus: 0}",
    "cluster.latent_encoder={replicas: 1, cpus: 1, gpus: 0.4}",
    "cluster.caption_rewriter={replicas: 1, cpus: 0.25, gpus: 0.3}",
    "cluster.text_encoder={replicas: 1, cpus: 0.5, gpus: 0.3}",
)
CAPTIONS = {f"{number}.mp4": raw for number, raw in enumerate(LEARNT)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small release of LTX-2, a Gemma that has learnt three captions, and clips."""
    return write_preprocessing(tmp_path_factory.mktemp("gpu"), CAPTIONS)


def run_in(place, *overrides):
    rewriter = {"kind": "gemma", "model": f"{place / 'gemma'}"}
    values = [f"data.rewriter.{name}={value}" for name, value in rewriter.items()]
    return run_of(place / "release", *SMALL_CLIPS, *SHARES, *values, *overrides)


def made_in(place, name, *overrides):
    """A run's summary, and its rows by clip."""
    config, out = run_in(place, *overrides), place / name
    summary = preprocess(config, str(place / "clips"), str(out), SilentProgress())
    table = LatentTable.open(out)
    columns = table.read(range(table.rows))
    return summary, {
        clip: {column: values[row] for column, values in columns.items()}
        for row, clip in enumerate(columns["clip_uri"])
    }


@pytest.fixture(scope="module")
def dataset(place, ray_local):
    return made_in(place, "dataset")


def far(value, reference):
    """Relative distance."""
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def test_every_stage_works_on_its_share_of_the_gpu(dataset):
    summary, rows = dataset
    assert summary.ok == len(LEARNT)
    captions = {name: (row["caption"], row["rewritten"]) for name, row in rows.items()}
    assert captions == {name: (LEARNT[raw], True) for name, raw in CAPTIONS.items()}


def test_a_run_anew_gives_the_same_bytes(dataset, place):
    assert made_in(place, "anew")[0].digest == dataset[0].digest


def test_tensors_are_those_of_the_cpu_but_for_bfloat16(dataset, place):
    without = [
        f"cluster.{name}={{replicas: 1, cpus: 0.5, gpus: 0}}"
        for name in ("latent_encoder", "caption_rewriter", "text_encoder")
    ]
    _, exact = made_in(place, "cpu", *without)
    for name, row in dataset[1].items():
        for column in ("video", "audio", "video_text", "audio_text"):
            assert far(row[column], exact[name][column]) < 0.05, (name, column)


def test_codecs_on_the_gpu_compute_in_bfloat16_there(place):
    codec = run_in(place).codec
    video, audio = load_video_codec(codec, "cuda"), load_audio_codec(codec, "cuda")
    frames, sound = torch.rand(1, 9, 3, 64, 64) * 2 - 1, torch.rand(1, 2, SAMPLE_RATE) - 0.5
    latents = video.encode(frames.cuda()), audio.encode(sound.cuda(), 25)
    assert [value.device.type for value in latents] == ["cuda", "cuda"]
    exact = load_video_codec(codec).encode(frames), load_audio_codec(codec).encode(sound, 25)
    for value, reference in zip(latents, exact, strict=True):
        assert far(value.float().cpu().numpy(), reference.numpy()) < 0.05
    features = load_text_encoder(run_in(place), "cuda").encode([next(iter(LEARNT.values()))])
    assert features.video.device.type == "cpu"


def test_the_encoder_of_the_released_shapes_takes_whole_windows(place, ray_local, tmp_path):
    from pipelines.benchmarks.stand_ins.stream_codecs import random_ltx2_codecs

    config = run_in(place)
    codecs = random_ltx2_codecs(config, torch.device("cuda"))
    codecs.video.vae.save_pretrained(tmp_path / "vae")
    codecs.audio.vae.save_pretrained(tmp_path / "audio_vae")
    codecs.audio.vocoder.save_pretrained(tmp_path / "vocoder")
    del codecs
    torch.cuda.empty_cache()
    (tmp_path / "clips").mkdir()
    for number, name in enumerate(CAPTIONS):
        write_beacon_clip(tmp_path / "clips" / name, number, seconds=6)
    write_captions(tmp_path / "clips", CAPTIONS)
    whole = ("height=512", "width=768", "seconds=5")
    channels = ("video={latent_channels: 128, heads: 2, head_dim: 16}",)
    channels += ("audio={latent_channels: 128, heads: 2, head_dim: 8}",)
    released = run_in(
        place,
        *(f"codec.{name}={tmp_path}" for name in ("video", "audio")),
        *(f"data.{value}" for value in whole),
        *(f"model.{value}" for value in channels),
    )
    summary = preprocess(released, str(tmp_path / "clips"), str(tmp_path / "out"), SilentProgress())
    assert summary.ok == len(LEARNT)
    rows = LatentTable.open(tmp_path / "out").read(range(summary.ok))
    assert rows["video"].shape == (3, 16, 128, 16, 24)
    assert np.isfinite(rows["video"]).all()
