import pytest
import torch

from omniforcing_model.streaming.rolling_cache import RollingCache
from tests.worlds.small_models import small_model_config

CONFIG = small_model_config(sinks=2, window_blocks=2)
GRID = (1, 2)


@pytest.fixture
def cache():
    return RollingCache(CONFIG, GRID)


def block(pathway, number):
    """Keys of a block are its number, values its number less a half: (1, 2, tokens, 4)."""
    tokens = {"audio_self": (3, 25), "video_to_audio": (2, 6)}[pathway][number > 0]
    keys = torch.full((1, 2, tokens, 4), float(number))
    return keys, keys - 0.5


def numbers(read):
    assert torch.equal(read.values, read.keys - 0.5)
    assert read.mask is None
    return read.keys[0, 0, :, 0].tolist()


def test_block_0_holds_the_prefix_and_the_sinks(cache):
    assert cache.anchored_tokens("audio_self") == cache.anchored_tokens("audio_to_video") == 3
    assert cache.anchored_tokens("video_self") == cache.anchored_tokens("video_to_audio") == 2


@pytest.mark.parametrize("gradients", [False, True])
def test_the_newest_block_takes_the_place_of_the_one_that_left_the_window(cache, gradients):
    reads = []
    for number in range(6):
        with torch.no_grad():
            read = cache.put("video_to_audio", 0, number, block("video_to_audio", number))
        if gradients:
            with torch.enable_grad():
                read = cache.put("video_to_audio", 0, number, block("video_to_audio", number))
        reads.append(sorted(set(numbers(read))))
    assert reads == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5]]
    assert numbers(read) == [0] * 2 + [4] * 6 + [5] * 6 + [3] * 6


def test_a_pass_with_gradients_leaves_the_cache_as_it_is(cache):
    with torch.no_grad():
        cache.put("audio_self", 0, 0, block("audio_self", 0))
        cache.put("audio_self", 0, 1, block("audio_self", 1))
    with torch.enable_grad():
        read = cache.put("audio_self", 0, 2, block("audio_self", 9))
    assert numbers(read) == [0] * 3 + [1] * 25 + [9] * 25
    with torch.no_grad():
        read = cache.put("audio_self", 0, 3, block("audio_self", 3))
    assert read.keys[0, 0, :, 0].tolist() == [0] * 3 + [1] * 25 + [0] * 25 + [3] * 25


@torch.no_grad()
def test_memory_is_block_0_twice_for_its_keys_and_a_ring_of_the_window_and_one(cache):
    assert cache.nbytes() == 0
    cache.put("audio_self", 0, 0, block("audio_self", 0))
    length = 3 + 3 * 25
    assert cache.nbytes() == 4 * 2 * 4 * (2 * length + 3)
    cache.put("audio_self", 1, 0, block("audio_self", 0))
    assert cache.nbytes() == 2 * 4 * 2 * 4 * (2 * length + 3)


@torch.no_grad()
def test_block_0_moves_on_with_the_window_and_not_before(cache):
    keys = torch.randn(1, 2, 3, 4)
    cache.put("audio_self", 0, 0, (keys, keys))
    for number in range(1, 5):
        cache.view(number)
        read = cache.put("audio_self", 0, number, block("audio_self", number))
        same = torch.equal(read.keys[:, :, :3], keys)
        assert same is (number <= 3)
    norms = (read.keys[:, :, :3].norm(dim=-1), keys.norm(dim=-1))
    assert torch.allclose(*norms, atol=1e-5)
    assert torch.equal(read.values[:, :, :3], keys)


def test_the_view_of_a_block_has_its_tokens(cache):
    first, later = cache.view(0), cache.view(1)
    assert (first.sinks, later.sinks) == (2, 0)
    assert first.token_blocks().map(torch.Tensor.tolist) == ([0] * 2, [0] * 3)
    assert later.token_blocks().map(torch.Tensor.tolist) == ([0] * 6, [0] * 25)
