"""What a GPU alone does, in order: decoding behind its latents, copies behind decoding, the host
behind the copies, and the model behind none of it."""

import pytest
import torch

from actors.streaming.decode_queue import CpuDecodeQueue, CudaDecodeQueue, decode_queue
from omniforcing_model.per_stream import PerStream
from tests.worlds.late_device import GARBAGE, LateDevice


def latents(value):
    return PerStream(torch.full((1, 2), value), torch.full((1, 3), value))


def doubled_on_host(queue):
    return lambda own: own.map(lambda values: queue.to_host(2 * values))


@pytest.fixture
def device():
    return LateDevice()


def test_a_cpu_decodes_at_once_and_keeps_nothing_of_the_models_buffers():
    queue = decode_queue(torch.device("cpu"))
    assert isinstance(queue, CpuDecodeQueue)
    buffer = latents(1.0)
    before = queue.moment()
    decoding = queue.submit(lambda own: own.map(queue.to_host), buffer)
    buffer.map(lambda values: values.fill_(5.0))
    assert decoding.result().video.tolist() == [[1.0, 1.0]]
    assert queue.seconds_between(before, decoding.done) > 0


def test_a_block_is_decoded_as_it_was_though_the_model_writes_the_next_one_into_its_place(device):
    queue, buffer = CudaDecodeQueue(device), latents(0.0)
    decodings = []
    for value in (1.0, 2.0, 3.0):
        device.position += 1
        buffer.map(lambda values, value=value: values.fill_(value))
        decodings.append(queue.submit(doubled_on_host(queue), buffer))
    assert device.waits == 0
    assert [decoding.result().audio.tolist() for decoding in decodings] == [
        [[2 * value] * 3] for value in (1.0, 2.0, 3.0)
    ]


def test_memory_that_two_streams_use_is_kept_for_both(device):
    queue = CudaDecodeQueue(device)
    lent = []
    queue.submit(lambda own: lent.extend(map(device.is_lent, own)), latents(1.0)).result()
    assert lent == [True, True]


def test_nothing_is_on_the_host_before_it_is_waited_for(device):
    queue = CudaDecodeQueue(device)
    buffers = []

    def work(own):
        buffers.append(queue.to_host(own.video))
        return buffers[0]

    decoding = queue.submit(work, latents(1.0))
    assert buffers == []
    assert decoding.result().tolist() == [[1.0, 1.0]]
    assert device.host_buffer(latents(1.0).video).tolist() == [[GARBAGE, GARBAGE]]


def test_a_block_takes_what_the_device_takes_not_what_queueing_does(device):
    queue = CudaDecodeQueue(device)
    started = queue.moment()
    decoding = queue.submit(doubled_on_host(queue), latents(1.0))
    decoding.result()
    assert queue.seconds_between(started, decoding.done) > 0


def test_the_late_device_notices_a_decoding_that_does_not_wait_for_its_latents(device):
    stream = device.new_stream()
    device.position += 1
    with pytest.raises(AssertionError, match="does not wait for its latents"):
        device.launch(stream, lambda: None)
    with pytest.raises(AssertionError, match="the model waits"):
        device.model.wait_event(device.event_on(stream))
    with pytest.raises(AssertionError, match="on the model's stream"):
        device.copy(torch.zeros(1), torch.zeros(1))


def test_a_device_that_is_a_gpu_gets_a_stream_of_its_own(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: made.append(priority))
    assert isinstance(decode_queue(torch.device("cuda", 0)), CudaDecodeQueue)
    assert made == [-1]
