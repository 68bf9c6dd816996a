"""Whoever has a release of LTX-2 generates, serves and preprocesses with it by configuration."""

import json
import socket

import httpx
import numpy as np
import pytest

from actors.latents.codec_loading import load_text_encoder
from actors.streaming.stream_worker import StreamWorker
from infra.media.files import probe, read_waveform
from infra.storage.object_store import PLAIN_FILE, ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.cli import main
from pipelines.generate import Request, generate_from_server, generate_here
from pipelines.preprocessing.preprocess import row_stages
from serve.endpoint.api import build_api
from serve.sessions.admission import Admission
from tests.worlds.beacon_clips import caption, write_beacon_clips
from tests.worlds.in_process_replicas import InProcessReplicas, listening
from tests.worlds.ltx2_release import MODEL, run_of, settings_of, write_release
from tests.worlds.waiting import wait_until

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

PROMPT = "a red disc flashes twice a second with a high beep"
SECONDS = 2
START_S = 120
FRAMES = 1 + 24 * SECONDS
REQUEST = Request(PROMPT, SECONDS, seed=7)
# For clips of 64 pixels, and captions of beacons without a language model.
PREPROCESSING = (
    "data.split.kind=first",
    "data.gates.min_height=64",
    "data.gates.min_width=64",
    "data.rewriter.kind=grammar",
    "data.rewriter.min_words=4",
)
# How the picture is decoded, and the frames that each block gives out.
DECODING = {
    ("causal", 0): [1, 24, 24],
    ("shipped", 0): [1, 24, 24],
    ("shipped", 1): [0, 17, 32],
    ("shipped", 5): [0, 0, 49],
}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("ltx-2"))


@pytest.fixture(scope="module")
def release_of_2_3(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("ltx-2.3"), "2.3")


def expect_whole_tracks(clip, sample_rate):
    held = probe(clip)
    assert held.frames == FRAMES
    assert held.sample_rate == sample_rate
    assert held.duration_s == pytest.approx(FRAMES / 24, abs=0.001)
    # 25 latents a second, the first of which is one mel frame; AAC fills its last packet.
    sound = read_waveform(clip, sample_rate, channels=2, max_seconds=SECONDS + 1)
    assert sound.shape[1] == pytest.approx((SECONDS + 0.01) * sample_rate, abs=1024)


def test_a_clip_is_generated_from_the_command_line(release, tmp_path, capfd):
    out = tmp_path / "x.mp4"
    overrides = [word for value in settings_of(release) for word in ("--set", value)]
    options = ["--model", str(release), "--prompt", PROMPT, "--seconds", str(SECONDS)]
    main(["generate", "--preset", "paper", *overrides, *options, "--out", str(out), "--json"])
    shown = capfd.readouterr()
    assert "\r" not in shown.err  # no library draws a bar into a log
    summary = json.loads(shown.out)
    assert (summary["frames"], summary["sample_rate"]) == (FRAMES, 24_000)
    assert summary["first_bytes_s"] <= summary["first_chunk_s"]
    expect_whole_tracks(out, 24_000)


def test_2_3_sounds_at_48_khz(release_of_2_3, tmp_path):
    out = tmp_path / "x.mp4"
    config = run_of(release_of_2_3)
    clip = generate_here(config, str(release_of_2_3), REQUEST, out, SilentProgress())
    assert clip.sample_rate == 48_000
    expect_whole_tracks(out, 48_000)


@pytest.mark.parametrize(("mode", "right"), DECODING)
def test_a_stream_has_all_its_frames_whatever_the_decoder_holds_back(release, mode, right):
    how = (f"codec.video_decode.mode={mode}", f"codec.video_decode.right={right}")
    config = run_of(release, *how)
    text = load_text_encoder(config).encode([PROMPT]).map(lambda features: features[0])
    worker = StreamWorker(release, config)
    blocks = [worker.next_block("s") for _ in range(worker.open("s", text, 7, SECONDS))]
    assert [len(block.frames) for block in blocks] == DECODING[mode, right]
    assert worker.sample_rate == 24_000
    samples = [block.waveform.shape[1] for block in blocks]
    assert samples[0] == 0  # a mel frame, which waits for those after it
    assert sum(samples) == (SECONDS * 100 + 1) * 240


@pytest.mark.parametrize("right", [0, 1, 5])
def test_a_server_streams_it_with_the_codecs_own_rate(release, tmp_path, right):
    config = run_of(release, f"codec.video_decode.right={right}")
    worker = StreamWorker(release, config, encodes=True)
    admission = Admission(config, "ltx-2", InProcessReplicas(worker, config))
    out = tmp_path / "x.mp4"
    with listening(build_api(admission, ())) as url:
        clip = generate_from_server(config, url, REQUEST, out, SilentProgress())
    assert clip.frames == FRAMES
    expect_whole_tracks(out, 24_000)
    frames_by_block = DECODING["shipped", right]
    began = [sum(frames_by_block[:index]) / 24 for index in range(len(frames_by_block))]
    assert [block.media_s for block in clip.blocks] == pytest.approx(began, abs=1e-4)
    assert clip.first_bytes_s <= clip.first_chunk_s
    assert clip.first_bytes_s == clip.blocks[[n > 0 for n in frames_by_block].index(True)].sent_at_s


def test_a_window_and_its_caption_become_latents_and_text_features(release, tmp_path):
    clips = write_beacon_clips(tmp_path / "clips", count=1, seconds=1)
    config = run_of(release, *PREPROCESSING)
    row = {
        "clip_uri": "clip_0.mp4",
        "clip_bytes": 0,
        "clip_modified_ns": 0,
        "archive_offset": PLAIN_FILE,
        "clip_digest": "",  # whatever it is
        "start_s": 0.0,
        "height": 64,
        "width": 64,
        "caption_raw": caption(0),
        "needs_latents": True,
        "needs_text": True,
        "outcome": "ok",
        "reason": "",
        "error": "",
    }
    batch = {name: np.array([value], dtype=object) for name, value in row.items()}
    for stage in row_stages(config, ObjectStore(clips).uri):
        batch = stage.actor(**stage.arguments)(batch)
    assert (batch["outcome"][0], batch["text_outcome"][0]) == ("ok", "ok")
    assert batch["video"].shape == (1, 4, MODEL.video.latent_channels, 2, 2)
    assert batch["audio"].shape == (1, 26, MODEL.audio.latent_channels)
    encoder = load_text_encoder(config)
    features = encoder.encode([str(batch["caption"][0])])
    for stream, expected in features.present():
        assert np.array_equal(batch[f"{stream}_text"], expected.numpy())


@pytest.fixture
def named_from_here(release, monkeypatch):
    """The release as a path that means nothing in another folder."""
    monkeypatch.chdir(release.parent)
    return release.name


@pytest.mark.serve
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_two_replicas_serve_it(release, named_from_here, tmp_path, ray_local):
    from serve.app import build_application, serve_application

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    config = run_of(named_from_here, "serve.layout=pair", f"serve.port={port}")
    url, out = f"http://127.0.0.1:{port}", tmp_path / "x.mp4"
    with serve_application(config, build_application(config, release, "ltx-2")):
        wait_until(lambda: httpx.get(f"{url}/readyz").is_success, START_S)
        generate_from_server(config, url, REQUEST, out, SilentProgress())
    expect_whole_tracks(out, 24_000)
