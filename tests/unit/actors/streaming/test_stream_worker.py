"""Streams are a function of text, seed and weights, in one process or in two."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from actors.streaming.decode_queue import CudaDecodeQueue
from actors.streaming.stream_history import StreamHistory
from actors.streaming.stream_worker import StreamWorker
from infra.errors import MediaError
from infra.presets import with_changes
from omniforcing_model.codecs.tiny.text_encoder import TinyTextEncoder
from omniforcing_model.errors import (
    DivergenceError,
    ExchangeError,
    LayoutError,
    ShapeError,
    StreamStateError,
)
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.exchange import DistributedExchange
from tests.worlds.late_device import LateDevice
from tests.worlds.streaming import write_streaming_world

SECONDS = 2
PROMPT = "a red disc flashes twice a second with a high beep"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_streaming_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def worker(world):
    return StreamWorker(*world)


def features(prompt=PROMPT):
    return TinyTextEncoder().encode([prompt]).map(lambda value: value[0].numpy())


def stream(worker, name, seed=7, text=None, seconds=SECONDS):
    blocks = worker.open(name, text or features(), seed, seconds)
    result = [worker.next_block(name) for _ in range(blocks)]
    worker.close(name)
    return result


def joined(blocks):
    return PerStream(
        np.concatenate([block.latents.video for block in blocks]),
        np.concatenate([block.latents.audio for block in blocks]),
    )


def test_two_seconds_are_three_blocks_of_matching_picture_and_sound(worker):
    blocks = stream(worker, "shape")
    assert [block.index for block in blocks] == [0, 1, 2]
    assert [block.frames.shape for block in blocks] == [(1, 64, 64, 3), *[(24, 64, 64, 3)] * 2]
    assert {block.frames.dtype for block in blocks} == {np.dtype(np.uint8)}
    assert sum(block.waveform.shape[1] for block in blocks) == 2 * 16_000 + 160
    assert all(min(block.timings[:2]) > 0 for block in blocks)


def test_same_seed_gives_the_same_stream_on_a_second_call(worker):
    first, second = joined(stream(worker, "a")), joined(stream(worker, "b"))
    np.testing.assert_array_equal(first.video, second.video)
    np.testing.assert_array_equal(first.audio, second.audio)


def test_another_seed_or_another_prompt_gives_another_stream(worker):
    first = joined(stream(worker, "a"))
    assert not np.allclose(first.video, joined(stream(worker, "b", seed=8)).video)
    assert not np.allclose(first.audio, joined(stream(worker, "c", text=features("silence"))).audio)


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.03), ("float8", 0.2)])
def test_a_lower_precision_streams_nearly_the_same_first_block(world, worker, precision, bound):
    folder, config = world
    sampling = config.sampling.model_copy(update={"student_precision": precision})
    if precision == "float8":
        pytest.importorskip("torchao", reason="needs the extra float8")
    lower = StreamWorker(folder, config.model_copy(update={"sampling": sampling}))
    exact, rounded = (stream(each, precision)[0].latents for each in (worker, lower))
    for reference, latents in zip(exact, rounded, strict=True):
        error = np.linalg.norm(latents - reference) / np.linalg.norm(reference)
        assert 0 < error < bound


def test_streams_that_take_turns_do_not_disturb_each_other(worker):
    alone = joined(stream(worker, "alone"))
    worker.open("one", features(), 7, SECONDS)
    worker.open("two", features("a blue disc"), 8, SECONDS)
    blocks = []
    for _ in range(3):
        blocks.append(worker.next_block("one"))
        worker.next_block("two")
    worker.close("one")
    worker.close("two")
    np.testing.assert_array_equal(joined(blocks).video, alone.video)


def history_of(worker, blocks):
    history = StreamHistory(worker.facts.history)
    for block in blocks:
        history.keep(block.index, block.latents)
    return history


def go_on(worker, name, history, seconds, at_once=4):
    """A stream from where its history ends, opened anew."""
    blocks = worker.open(name, features(), 7, seconds, history.next_block)
    for past in history.chunks(at_once):
        worker.replay(name, past)
    result = [worker.next_block(name) for _ in range(history.next_block, blocks)]
    worker.close(name)
    return result


def assert_same_blocks(ours, theirs):
    for own, other in zip(ours, theirs, strict=True):
        assert own.index == other.index
        for name in ("frames", "waveform"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name))
        own.latents.map(np.testing.assert_array_equal, other.latents)


@pytest.mark.parametrize("at_once", [1, 4, 100])
@pytest.mark.parametrize("done", [0, 1, 2, 9, 13, 14])
def test_a_stream_goes_on_elsewhere_with_the_same_pictures_and_sound(world, worker, done, at_once):
    straight = stream(worker, "straight", seconds=14)
    history = history_of(worker, straight[:done])
    elsewhere = StreamWorker(*world)
    assert_same_blocks(go_on(elsewhere, "s", history, 14, at_once), straight[done:])


def test_what_is_kept_of_a_stream_is_bounded(worker):
    straight = stream(worker, "straight", seconds=40)
    sizes = [history_of(worker, straight[:done]).nbytes() for done in (15, 20, 30, 40)]
    layout = BlockLayout(worker.facts.history.layout)
    most = layout.config.pinned_blocks + layout.blocks_seen(2) + layout.slots - 1
    block = sum(latents.nbytes for latents in straight[5].latents)
    assert max(sizes) <= most * block < 15 * block
    done = 33
    history = history_of(worker, straight[:done])
    assert_same_blocks(go_on(worker, "s", history, 40), straight[done:])


def test_fewer_blocks_give_nearly_the_same(world):
    folder, config = world
    near = StreamWorker(folder, with_changes(config, ["serve.replayed_blocks=2"]))
    straight = stream(near, "straight", seconds=14)
    history = history_of(near, straight[:13])
    assert sum(map(len, history.chunks(99))) < 13
    (first, _) = go_on(near, "s", history, 14)
    difference = np.abs(first.latents.video - straight[13].latents.video).max()
    assert 0 < difference < 0.2 * np.abs(straight[13].latents.video).max()


def test_blocks_that_are_not_of_the_stream_are_refused(worker):
    blocks = stream(worker, "straight", seconds=3)
    worker.open("s", features(), 7, 3, next_block=2)
    with pytest.raises(StreamStateError, match="expected block 0 of a stream"):
        worker.replay("s", {1: blocks[1].latents})
    with pytest.raises(ShapeError, match="for block 0"):
        worker.replay("s", {0: blocks[1].latents})
    with pytest.raises(StreamStateError, match="expected a stream whose blocks are replayed"):
        worker.next_block("s")
    worker.close("s")
    with pytest.raises(StreamStateError, match="expected an open stream"):
        worker.replay("s", {0: blocks[0].latents})


def test_a_stream_ends_and_is_forgotten(worker):
    worker.open("end", features(), 0, 1)
    worker.next_block("end")
    worker.next_block("end")
    with pytest.raises(StreamStateError, match="at most 2 blocks"):
        worker.next_block("end")
    worker.close("end")
    worker.close("end")
    assert worker.open_streams == []
    with pytest.raises(StreamStateError, match="expected an open stream"):
        worker.next_block("end")


def test_an_open_id_and_an_empty_stream_are_refused(worker):
    worker.open("twice", features(), 0, 1)
    with pytest.raises(StreamStateError, match="new stream id"):
        worker.open("twice", features(), 0, 1)
    worker.close("twice")
    with pytest.raises(LayoutError, match="at least 1 second"):
        worker.open("empty", features(), 0, 0)


def test_latents_that_are_not_finite_are_named(world, worker):
    with torch.no_grad():
        weight = worker._model.video.proj_out.weight
        finite = weight.clone()
        weight.fill_(float("nan"))
    try:
        worker.open("nan", features(), 0, 1)
        with pytest.raises(DivergenceError, match="finite video latents in block 0"):
            worker.next_block("nan")
    finally:
        worker.close("nan")
        with torch.no_grad():
            weight.copy_(finite)


def test_blocks_are_the_same_when_they_are_computed_ahead(worker):
    alone = joined(stream(worker, "alone"))
    worker.open("ahead", features(), 7, SECONDS)
    blocks = []
    for index in range(SECONDS + 1):
        pending = worker.begin_block("ahead")
        worker.run_ahead("ahead")
        worker.run_ahead("ahead")  # one block is enough
        assert worker._streams["ahead"].latents.block_index == min(index + 2, SECONDS + 1)
        blocks.append(pending.result())
    with pytest.raises(StreamStateError, match="at most 3 blocks"):
        worker.begin_block("ahead")
    worker.close("ahead")
    worker.run_ahead("ahead")
    assert [block.index for block in blocks] == [0, 1, 2]
    np.testing.assert_array_equal(joined(blocks).video, alone.video)
    np.testing.assert_array_equal(joined(blocks).audio, alone.audio)


def test_a_device_that_is_late_gives_the_same_and_is_waited_for_only_at_the_end(world, worker):
    device = LateDevice()
    late = StreamWorker(*world)
    late._decode_queue = CudaDecodeQueue(device)
    late._model.register_forward_pre_hook(
        lambda *_: setattr(device, "position", device.position + 1)
    )
    exact = {name: stream(worker, name, seed) for name, seed in (("one", 7), ("two", 8))}
    pending = {"one": [], "two": []}
    for name, seed in (("one", 7), ("two", 8)):
        late.open(name, features(), seed, SECONDS)
    for _ in range(SECONDS + 1):
        for name, blocks in pending.items():
            blocks.append(late.begin_block(name))
            late.run_ahead(name)
    assert device.waits == 0
    for name in ("two", "one"):
        for expected, block in zip(exact[name], pending[name], strict=True):
            got = block.result()
            np.testing.assert_array_equal(got.frames, expected.frames)
            np.testing.assert_array_equal(got.waveform, expected.waveform)
            np.testing.assert_array_equal(got.latents.video, expected.latents.video)
            assert all(seconds > 0 for seconds in got.timings[:2])


def test_what_cannot_be_decoded_fails_its_own_stream_alone(worker, monkeypatch):
    def fail(*_):
        raise ValueError("odd")

    worker.open("well", features(), 7, 1)
    worker.open("ill", features(), 7, 1)
    monkeypatch.setattr(worker._streams["ill"].decoders._video, "decode", fail)
    pending = worker.begin_block("ill")
    with pytest.raises(MediaError, match="expected latents that decode, got ValueError"):
        pending.result()
    assert worker.next_block("well").index == 0
    for name in ("well", "ill"):
        worker.close(name)


def test_a_block_that_is_not_finite_is_not_given_out_though_it_is_decoded_meanwhile(world):
    device = LateDevice()
    late = StreamWorker(*world)
    late._decode_queue = CudaDecodeQueue(device)
    with torch.no_grad():
        late._model.audio.proj_out.weight.fill_(float("inf"))
    late.open("nan", features(), 0, 1)
    pending = late.begin_block("nan")
    late.run_ahead("nan")
    assert device.waits == 0
    with pytest.raises(DivergenceError, match=r"finite (video|audio) latents in block 0"):
        pending.result()


def test_what_fails_ahead_is_said_then_and_when_the_block_is_asked_for(worker, monkeypatch):
    def fail():
        raise ExchangeError("gone")

    worker.open("lost", features(), 7, 1)
    worker.next_block("lost")
    monkeypatch.setattr(worker._streams["lost"].latents, "next_block", fail)
    with pytest.raises(ExchangeError, match="gone"):
        worker.run_ahead("lost")
    monkeypatch.undo()
    for _ in range(2):
        worker.run_ahead("lost")
        with pytest.raises(ExchangeError, match="gone"):
            worker.next_block("lost")
    worker.close("lost")


def test_text_is_read_once_for_all_streams_of_a_prompt(world, monkeypatch):
    worker, read = StreamWorker(*world), []
    read_text = worker._model.read_text
    monkeypatch.setattr(
        worker._model, "read_text", lambda text: read.append(text) or read_text(text)
    )
    alone = joined(stream(worker, "one"))
    worker.open("two", features(), 8, SECONDS)
    again = joined(stream(worker, "three"))
    assert len(read) == 1
    np.testing.assert_array_equal(alone.video, again.video)
    stream(worker, "four", text=features("silence"))
    assert len(read) == 2


def test_a_stream_that_cannot_be_opened_reads_no_text(world, monkeypatch):
    worker = StreamWorker(*world)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(worker._seats, "open", fail)
    with pytest.raises(MemoryError):
        worker.open("large", features(), 7, 1)
    assert [prompt.readers for prompt in worker._texts._prompts] == [0]


def test_a_worker_that_is_warm_streams_what_a_cold_one_does(world, worker):
    cold = stream(worker, "cold")
    fresh = StreamWorker(*world)
    passes = []
    fresh._model.register_forward_pre_hook(lambda *_: passes.append(None))
    fresh.warm_up()
    assert fresh.open_streams == []
    # Every kind of block, the last without the pass that commits it.
    assert len(passes) == 5 * (fresh._model.config.layout.window_blocks + 3) - 1
    for expected, got in zip(cold, stream(fresh, "warm"), strict=True):
        np.testing.assert_array_equal(got.frames, expected.frames)
        np.testing.assert_array_equal(got.waveform, expected.waveform)


@pytest.mark.parametrize("half", ["video", "audio"])
def test_a_half_warms_up_without_a_partner_and_keeps_the_one_it_has(world, half):
    partner = object()
    alone = StreamWorker(*world, halves=(half,), exchange=partner)
    alone.warm_up()
    assert alone.open_streams == []
    assert alone._model.exchange is partner


def test_weights_that_do_not_stream_are_no_error_of_warming_up(world):
    broken = StreamWorker(*world)
    with torch.no_grad():
        broken._model.video.proj_out.weight.fill_(float("nan"))
    broken.warm_up()
    assert broken.open_streams == []


def stream_half(rank, world, port, queue, blocks):
    """One half of a pair; the audio half may stop answering after `blocks` blocks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    half = ("video", "audio")[rank]
    worker = StreamWorker(*world, halves=(half,), exchange=DistributedExchange(None, 1 - rank))
    for name in ("first", "again"):
        worker.open(name, features(), 7, SECONDS)
        latents = [getattr(worker.next_block(name).latents, half) for _ in range(blocks)]
        queue.put((half, name, np.concatenate(latents)))
        worker.close(name)
    worker.open("broken", features(), 7, SECONDS)
    if half == "video":
        try:
            worker.next_block("broken")
        except ExchangeError as error:
            queue.put((half, "broken", str(error)))
    dist.destroy_process_group()


@pytest.mark.thorough
def test_a_pair_of_halves_streams_what_one_process_does_and_names_a_lost_half(
    world, worker, unused_port
):
    """Split into two processes, each stream's latents agree to 1e-5, twice over."""
    context = processes.get_context("spawn")
    queue = context.Queue()
    halves = [
        context.Process(target=stream_half, args=(rank, world, unused_port, queue, SECONDS + 1))
        for rank in range(2)
    ]
    for half in halves:
        half.start()
    results = {
        (half, name): value for half, name, value in (queue.get(timeout=90) for _ in range(5))
    }
    for half in halves:
        half.join(timeout=30)
    whole = joined(stream(worker, "whole"))
    for name in ("first", "again"):
        assert np.abs(results["video", name] - whole.video).max() <= 1e-5
        assert np.abs(results["audio", name] - whole.audio).max() <= 1e-5
    assert "expected an answer of the other stream" in results["video", "broken"]


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
