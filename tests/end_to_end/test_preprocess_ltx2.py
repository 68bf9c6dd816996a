"""LTX-2's codecs and text encoder, and Gemma before them, make a dataset by configuration alone."""

from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from actors.captions.caption_rewriter import RewriteCaptions
from actors.clips.clip_decoder import ClipDecoder
from actors.latents.codec_loading import load_audio_codec, load_text_encoder, load_video_codec
from infra.config import RunConfig
from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import read_outcomes
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from omniforcing_model.codecs.mel import SAMPLE_RATE
from pipelines.preprocessing.preprocess import preprocess
from pipelines.preprocessing.summary import PreprocessSummary
from tests.worlds.ltx2_release import MODEL, SMALL_CLIPS, run_of, write_preprocessing
from tests.worlds.openai_server import KEY, LEARNT, openai_server
from tests.worlds.openai_server import MODEL as SERVED

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = [pytest.mark.parity, pytest.mark.ray, pytest.mark.timeout(300)]

# What a small machine must say of the preset `paper`, besides where things are.
SETTINGS = (
    *SMALL_CLIPS,
    "cluster.clip_surveyor={replicas: 1, cpus: 1, gpus: 0}",
    "cluster.caption_rewriter={replicas: 1, cpus: 0.25, gpus: 0}",
)
CAPTIONS = {f"{number}.mp4": raw for number, raw in enumerate(LEARNT)}
# The small model has nothing to say about it that a validator would take.
UNLEARNT = "refused.mp4"
UNLEARNT_CAPTION = "refused second refused times refused A 2 high 3 low high once"
NO_PARAGRAPH = "Sure! Here is the caption."
ENDPOINT = pytest.param("endpoint", marks=pytest.mark.corpus)


class Run(NamedTuple):
    """A dataset, what it was made of, and the requests a server got meanwhile."""

    config: RunConfig
    clips: Path
    out: Path
    summary: PreprocessSummary
    requests: list[dict]

    @property
    def rows(self):
        """The rows with their tensors, by clip."""
        table = LatentTable.open(self.out)
        columns = table.read(range(table.rows))
        return {
            name: {column: values[row] for column, values in columns.items()}
            for row, name in enumerate(columns["clip_uri"])
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a release, a Gemma that has learnt three captions, a key, and clips."""
    folder = tmp_path_factory.mktemp("ltx-2")
    (folder / "key").write_text(f"{KEY}\n")
    return write_preprocessing(folder, CAPTIONS | {UNLEARNT: UNLEARNT_CAPTION})


def run_in(folder, url):
    """The run with what lies in `folder`: with a Gemma of its own, or that of the server `url`."""
    rewriter = {"kind": "gemma", "model": f"{folder / 'gemma'}"}
    if url:
        rewriter = {"kind": "endpoint", "model": SERVED, "url": url}
        rewriter["api_key_file"] = f"{folder / 'key'}"
    values = [f"data.rewriter.{name}={value}" for name, value in rewriter.items()]
    return run_of(folder / "release", *SETTINGS, *values)


@contextmanager
def served(place, scratch, is_served):
    """A server that talks about one clip instead of rewriting its caption; or none."""
    if not is_served:
        yield "", list
        return
    with openai_server(scratch, place / "gemma") as server:
        server.behave({"say": NO_PARAGRAPH, "times": 2, "caption": UNLEARNT_CAPTION})
        yield server.url, lambda: server.record()["requests"]


@pytest.fixture(scope="module", params=["gemma", ENDPOINT])
def run(request, place, tmp_path_factory, ray_local):
    """The dataset of a run whose files are named by paths that mean nothing in another folder."""
    scratch = tmp_path_factory.mktemp(request.param)
    clips, out = place / "clips", scratch / "dataset"
    with served(place, scratch, request.param == "endpoint") as (url, requests):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            summary = preprocess(run_in(Path(), url), str(clips), str(out), SilentProgress())
        return Run(run_in(place, url), clips, out, summary, requests())


def test_captions_are_rewritten_as_the_model_has_learnt(run):
    assert run.summary.ok == len(LEARNT)
    captions = {name: (row["caption"], row["rewritten"]) for name, row in run.rows.items()}
    assert captions == {name: (LEARNT[raw], True) for name, raw in CAPTIONS.items()}


def test_a_caption_without_a_good_answer_is_quarantined_alone(run):
    (row,) = [
        row
        for row in read_outcomes(ObjectStore(run.out)).to_pylist()
        if row["clip_uri"] == UNLEARNT
    ]
    assert row["outcome"] == "quarantined"
    assert row["caption"] == ""
    assert (row["reason"], row["error"]) == expected_of(run, row["clip_digest"])


def expected_of(run, clip_digest):
    """Reason and error of the unlearnt caption: as the server answers, or as the stage has it."""
    if run.requests:
        problem = "expected the paragraph alone, got words before it: 'Sure!'"
        return "caption_rejected", f"{problem}: {NO_PARAGRAPH}"
    texts = {"caption_raw": UNLEARNT_CAPTION, "clip_digest": clip_digest, "outcome": "ok"}
    batch = {name: np.array([text], dtype=object) for name, text in texts.items()}
    end = RewriteCaptions(run.config.data.rewriter)(batch | {"needs_text": np.array([True])})
    return end["text_reason"][0], end["text_error"][0]


def test_the_latents_are_those_of_the_codecs(run):
    decoder = ClipDecoder(run.config.data, str(run.clips), SAMPLE_RATE)
    video_codec, audio_codec = (
        load(run.config.codec) for load in (load_video_codec, load_audio_codec)
    )
    for name, row in run.rows.items():
        clip = decoder.decode(name)
        pictures = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        video = video_codec.encode(pictures)[0].numpy()
        audio = audio_codec.encode(torch.from_numpy(clip.waveform)[None], 26)[0].numpy()
        assert video.shape == (4, MODEL.video.latent_channels, 2, 2)
        assert audio.shape == (26, MODEL.audio.latent_channels)
        np.testing.assert_array_equal(row["video"], video)
        np.testing.assert_array_equal(row["audio"], audio)


def test_the_text_features_are_those_of_the_text_encoder(run):
    encoder = load_text_encoder(run.config)
    for row in run.rows.values():
        for stream, features in encoder.encode([str(row["caption"])]).present():
            np.testing.assert_array_equal(row[f"{stream}_text"], features[0].float().numpy())


@pytest.mark.parametrize("run", [ENDPOINT], indirect=True)
def test_a_server_is_asked_for_each_caption_and_its_key_stays_out_of_the_dataset(run):
    prompts = [request["messages"][-1]["content"] for request in run.requests]
    assert {request["model"] for request in run.requests} == {SERVED}
    for raw in (*CAPTIONS.values(), UNLEARNT_CAPTION):
        assert [text for text in prompts if raw in text], raw
    manifest = (run.out / "manifest.json").read_text()
    assert SERVED in manifest
    assert KEY not in manifest


def test_the_dataset_is_whole_wherever_its_parts_are_named_from(run):
    def times():
        files = [path for path in run.out.rglob("*") if ".owner" not in path.parts]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    again = preprocess(run.config, str(run.clips), str(run.out), SilentProgress())
    assert (again.rows_worked, again.digest) == (0, run.summary.digest)
    assert times() == before
