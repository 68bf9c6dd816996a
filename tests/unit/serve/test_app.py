"""The deployed application: separate video and audio replicas that stream as one."""

import asyncio
import io
import os
import signal
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import av
import httpx
import numpy as np
import psutil
import pytest

from actors.streaming.stream_history import StreamHistory
from actors.streaming.stream_worker import StreamWorker
from infra.errors import ConfigError
from infra.presets import load_preset
from omniforcing_model.codecs.tiny.text_encoder import TinyTextEncoder
from serve.sessions.leased_pair import LeasedPair, Opening
from serve.sessions.schedule import Schedule
from tests.worlds.streaming import write_streaming_world
from tests.worlds.waiting import wait_until

PROMPT = "a red disc flashes twice a second with a high beep"
SECONDS = 4
START_S = 120
GAP_S = 40  # on a busy machine; the process of a replica has to start


def unused_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def deployed(ray_local, tmp_path_factory):
    """The `pair` layout behind a client, with the model folder and run it was made of."""
    from serve.app import build_application, serve_application

    folder, config = write_streaming_world(
        tmp_path_factory.mktemp("world"),
        f"serve.port={unused_port()}",
        "serve.max_sessions=2",
        "serve.max_lead_s=60",
        "serve.resume_s=1",
    )
    url = f"http://127.0.0.1:{config.serve.port}"
    application = build_application(config, folder, "model sha256:abc")
    with serve_application(config, application), httpx.Client(base_url=url, timeout=60) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, START_S)
        yield client, folder, config


def pairs(client):
    """Those that are ready."""
    reply = client.get("/v1/pairs")
    return [pair for pair in reply.json() if pair["ready"]] if reply.is_success else []


def create(client, seconds=SECONDS, seed=7):
    reply = client.post("/v1/streams", json={"prompt": PROMPT, "seconds": seconds, "seed": seed})
    assert reply.status_code == 201, reply.text
    return reply.json()


def status(client, stream):
    return client.get(stream["urls"]["status"]).json()


def frames_in(data):
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_a_stream_comes_block_by_block_from_two_replicas(deployed):
    client, _, _ = deployed
    (pair,) = pairs(client)
    assert set(pair["members"]) == {"video", "audio"}
    stream = create(client)
    data = client.get(stream["urls"]["media"]).content
    assert len(frames_in(data)) == 1 + 24 * SECONDS
    known = status(client, stream)
    blocks = known["blocks"]
    assert known["state"] == "done"
    assert known["epoch"] == pair["epoch"]
    assert blocks[0]["sent_at"] < blocks[-1]["computed_at"]
    assert known["first_byte_s"] < known["first_chunk_s"]


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_two_replicas_give_the_latents_of_one_process_and_the_same_on_a_second_call(deployed):
    _, folder, config = deployed
    encoder = TinyTextEncoder(config.codec.text_tokens, config.model.text_width)
    text = encoder.encode([PROMPT]).map(lambda features: features[0].numpy())
    worker = StreamWorker(folder, config)
    whole = [worker.next_block("w") for _ in range(worker.open("w", text, 7, SECONDS))]
    for name in ("first", "again"):
        streamed = asyncio.run(latents_of_the_pair(name, Opening(text, 7, SECONDS)))
        assert len(streamed) == len(whole)
        for alone, together in zip(whole, streamed, strict=True):
            for one, two in zip(alone.latents, together.latents, strict=True):
                assert np.abs(one - two).max() <= 1e-5


async def latents_of_the_pair(name, opening):
    from ray import serve as ray_serve

    from serve.app import APPLICATION

    handles = {
        half: ray_serve.get_deployment_handle(deployment, APPLICATION)
        for half, deployment in (("video", "VideoStream"), ("audio", "AudioStream"))
    }
    registry = ray_serve.get_deployment_handle("PairRegistry", APPLICATION)
    lease = await registry.lease.remote("test")
    pair = LeasedPair(lease, handles, Schedule(), timeout_s=60)
    new = StreamHistory((await pair.facts()).history)
    blocks = [await pair.next_block(name) for _ in range(await pair.open(name, opening, new))]
    await pair.close(name)
    await registry.release.remote(lease.lease_id)
    return blocks


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_two_streams_share_a_pair_and_each_stays_itself(deployed):
    client, _, _ = deployed
    alone = client.get(create(client)["urls"]["media"]).content
    wait_until(lambda: pairs(client)[0]["leases"] == 0)
    one, two = create(client), create(client, seed=8)
    assert client.post("/v1/streams", json={"prompt": PROMPT}).status_code == 429
    other = client.get(two["urls"]["media"]).content
    assert client.get(one["urls"]["media"]).content == alone
    assert len(frames_in(other)) == 1 + 24 * SECONDS


def left_by_its_reader(client):
    """The status of a stream that its reader has left, and the seconds until its pair is free."""
    stream = create(client, seconds=60)
    with client.stream("GET", stream["urls"]["media"]) as reply:
        chunks = reply.iter_raw()  # closes the reply when it is forgotten
        next(chunks)
        wait_until(lambda: len(status(client, stream)["blocks"]) > 2)
    freed_after_s = wait_until(lambda: pairs(client)[0]["leases"] == 0)
    known = status(client, stream)
    wait_until(lambda: status(client, stream)["state"] == "stopped")  # its reader did not come back
    return known, freed_after_s


@pytest.mark.serve
@pytest.mark.timeout(300)
def test_a_reader_that_disconnects_frees_the_pair(deployed):
    known, _ = left_by_its_reader(deployed[0])
    assert (known["state"], known["reason"]) == ("streaming", None)  # it may come back
    assert len(known["blocks"]) < 60


@pytest.mark.serve
@pytest.mark.quiet
@pytest.mark.timeout(300)
def test_it_does_so_within_one_block(deployed):
    known, freed_after_s = left_by_its_reader(deployed[0])
    assert freed_after_s < 2 * max(block["block_s"] for block in known["blocks"]) + 1.0


@pytest.mark.serve
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("half", "deployment"), [("audio", "AudioStream"), ("video", "VideoStream")]
)
def test_streams_of_a_killed_half_go_on_with_the_same_bytes(deployed, half, deployment):
    client, _, _ = deployed
    (before,) = pairs(client)
    undisturbed = media_of(client, [create(client, 30, seed) for seed in (7, 8)])
    streams = [create(client, 30, seed) for seed in (7, 8)]
    with ThreadPoolExecutor(1) as elsewhere:
        reading = elsewhere.submit(media_of, client, streams)
        wait_until(lambda: all(len(status(client, one)["blocks"]) > 2 for one in streams))
        os.kill(pid_of(deployment), signal.SIGKILL)
        disturbed = reading.result(timeout=120)
    assert disturbed == undisturbed
    known = [status(client, one) for one in streams]
    assert [one["state"] for one in known] == ["done", "done"]
    assert all(one["moves"] >= 1 and one["epoch"] > before["epoch"] for one in known)
    (after,) = pairs(client)
    assert after["members"][half] != before["members"][half]
    gaps = [max(block["block_s"] for block in one["blocks"]) for one in known]
    assert max(gaps) < GAP_S


def pid_of(deployment):
    """Of its one replica, in the cluster of this process."""
    (found,) = (
        process.pid
        for process in psutil.Process().children(recursive=True)
        if f":{deployment}" in " ".join(process.cmdline())
    )
    return found


def media_of(client, streams):
    """The bytes of streams that are read at the same time."""
    urls = [stream["urls"]["media"] for stream in streams]
    with ThreadPoolExecutor(len(urls)) as readers:
        return [reply.content for reply in readers.map(client.get, urls)]


def test_a_file_of_keys_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    from serve.app import build_application

    with pytest.raises(ConfigError, match="readable file with a key per line"):
        build_application(load_preset("tiny", ["serve.api_key_file=/nowhere"]), tmp_path, "model")


def deployments_of(application):
    """Every deployment of an application, by name."""
    from ray import serve as ray_serve

    deployment = application._bound_deployment
    known = {deployment.name: deployment}
    for argument in deployment.init_args:
        for part in argument.values() if isinstance(argument, Mapping) else [argument]:
            if isinstance(part, ray_serve.Application):
                known |= deployments_of(part)
    return known


CLAIMS = (
    "serve.pairs=3",
    "cluster.gateway={cpus: 2, gpus: 0, memory_gib: 1}",
    "cluster.prompt_encoder={replicas: 2, cpus: 1, gpus: 0.5, memory_gib: 0}",
    "cluster.video_stream={cpus: 4, gpus: 1, memory_gib: 8}",
    "cluster.audio_stream={cpus: 3, gpus: 0.5, memory_gib: 4}",
)
ON_HEAD = {"resources": {"node:__internal_head__": 0.001}}
PAIR = {
    "Gateway": (1, {"num_cpus": 2, "num_gpus": 0, "memory": 2**30} | ON_HEAD),
    "TextEncoder": (2, {"num_cpus": 1, "num_gpus": 0.5}),
    "PairRegistry": (1, {"num_cpus": 0.1, "num_gpus": 0}),
    "VideoStream": (3, {"num_cpus": 4, "num_gpus": 1, "memory": 8 * 2**30}),
    "AudioStream": (3, {"num_cpus": 3, "num_gpus": 0.5, "memory": 4 * 2**30}),
}


@pytest.mark.parametrize("layout", ["pair", "colocated"])
def test_every_deployment_claims_what_the_configuration_says(layout, tmp_path):
    from serve.app import build_application

    config = load_preset("tiny", [*CLAIMS, f"serve.layout={layout}"])
    expected = dict(PAIR)
    if layout == "colocated":
        expected["ColocatedStream"] = expected.pop("VideoStream")
        del expected["AudioStream"]
    claims = {
        name: (deployment.num_replicas, deployment.ray_actor_options)
        for name, deployment in deployments_of(build_application(config, tmp_path, "m")).items()
    }
    assert claims == expected
