import pytest
import torch

from omniforcing_model.kernels.regions import write
from omniforcing_model.streaming.cached_view import CachedView
from omniforcing_model.streaming.rolling_cache import RollingCache, Span
from omniforcing_model.transformer.attention_view import path_table
from tests.worlds.layouts import layout_of
from tests.worlds.small_models import small_model_config

CONFIG = small_model_config(sinks=2, window_blocks=2)
GRID = (1, 2)
FIRST = {"audio_self": 3, "audio_to_video": 3, "video_self": 2, "video_to_audio": 2}


@pytest.fixture
def cache():
    return RollingCache(CONFIG, GRID)


def numbered(cache, pathway, number, as_block=None):
    """Read block `number`, whose keys are its number (or `as_block`) and values half less."""
    with torch.no_grad():
        view = CachedView(cache, number)
    ring = cache.ring(pathway)
    tokens = view.slot(pathway, 0)
    _, rows, heads, _, head_dim = ring.keys.shape
    span = cache.span("audio" if pathway.startswith("audio") else "video", number)
    value = float(number if as_block is None else as_block)
    keys = torch.full((rows, heads, span.end - span.start, head_dim), value)
    if tokens is not None:
        write(tokens, keys, keys - 0.5)
    return view.read(pathway, 0, keys, keys - 0.5)


def numbers(read):
    assert read.mask is None
    # Block 0 may have been turned since.
    return [key if key else 0 for key in (read.values[0, 0, :, 0] + 0.5).tolist()]


@pytest.mark.parametrize("pathway", FIRST)
def test_block_0_holds_the_prefix_and_the_sinks(cache, pathway):
    assert cache.ring(pathway).anchor_keys.shape[3] == FIRST[pathway]


@pytest.mark.parametrize("gradients", [False, True])
def test_the_newest_block_takes_the_place_of_the_one_that_left_the_window(cache, gradients):
    reads = []
    for number in range(6):
        with torch.no_grad():
            read = numbered(cache, "video_to_audio", number)
        if gradients:
            with torch.enable_grad():
                read = numbered(cache, "video_to_audio", number)
        reads.append(sorted(set(numbers(read))))
    assert reads == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5]]
    assert numbers(read) == [0] * 2 + [4] * 6 + [5] * 6 + [3] * 6


def test_a_pass_with_gradients_leaves_the_cache_as_it_is(cache):
    with torch.no_grad():
        numbered(cache, "audio_self", 0)
        numbered(cache, "audio_self", 1)
    with torch.enable_grad():
        read = numbered(cache, "audio_self", 2, as_block=9)
    assert numbers(read) == [0] * 3 + [1] * 25 + [9] * 25
    with torch.no_grad():
        read = numbered(cache, "audio_self", 3)
    assert (read.values[0, 0, :, 0] + 0.5).tolist() == [0] * 3 + [1] * 25 + [0.5] * 25 + [3] * 25


def test_memory_is_block_0_twice_for_its_keys_and_a_ring_of_the_window_and_one(cache):
    for pathway, first in FIRST.items():
        stream = CONFIG.audio if pathway != "video_self" else CONFIG.video
        each = 25 if pathway.startswith("audio") else 6
        ring = cache.ring(pathway)
        numbers = CONFIG.layers * stream.heads * stream.head_dim
        assert sum(t.numel() for t in ring) == numbers * (2 * (first + 3 * each) + first)
    assert cache.nbytes() == 4 * sum(t.numel() for path in FIRST for t in cache.ring(path))


def test_a_half_holds_its_own_caches_alone_and_video_both_cross_modal_ones():
    video, audio = (RollingCache(CONFIG, GRID, halves=[half]) for half in ("video", "audio"))
    both = RollingCache(CONFIG, GRID)
    assert video.nbytes() + audio.nbytes() == both.nbytes()
    assert audio.nbytes() == 4 * sum(t.numel() for t in both.ring("audio_self"))


def test_blocks_lie_one_after_the_other_and_then_take_turns(cache):
    spans = [cache.span("audio", block) for block in range(6)]
    assert spans[:4] == [Span(0, 3, 3), Span(3, 28, 28), Span(28, 53, 53), Span(53, 78, 78)]
    assert spans[4:] == [Span(3, 28, 78), Span(28, 53, 78)]
    assert cache.length("audio") == 78


@torch.no_grad()
@pytest.mark.parametrize("pathway", FIRST)
def test_block_0_moves_on_with_the_window_and_not_before(cache, pathway):
    ring = cache.ring(pathway)
    first = FIRST[pathway]
    ring.keys.normal_()
    keys, later = ring.keys[..., :first, :].clone(), ring.keys[..., first:, :].clone()
    for number in range(1, 6):
        cache.see_from(number)
        assert torch.equal(ring.keys[..., :first, :], keys) is (number <= 3)
    norms = (ring.keys[..., :first, :].norm(dim=-1), keys.norm(dim=-1))
    assert torch.allclose(*norms, atol=1e-5)
    assert torch.equal(ring.keys[..., first:, :], later)


@torch.no_grad()
def test_block_0_of_one_row_moves_alone():
    alone, batch = RollingCache(CONFIG, GRID), RollingCache(CONFIG, GRID, rows=3)
    keys = torch.randn(CONFIG.layers, 1, 2, 81, 4)[..., : alone.length("audio"), :]
    alone.ring("audio_self").keys.copy_(keys)
    batch.ring("audio_self").keys.copy_(keys.expand(-1, 3, -1, -1, -1))
    for number in (4, 5):
        alone.see_from(number)
        batch.see_from(number, row=1)
    moved, still = batch.ring("audio_self").keys[:, 1], batch.ring("audio_self").keys[:, 2]
    assert torch.equal(moved, alone.ring("audio_self").keys[:, 0])
    assert torch.equal(still, keys[:, 0])


def test_the_view_of_a_block_has_its_tokens(cache):
    first, later = CachedView(cache, 0), CachedView(cache, 1)
    assert (first.sinks, later.sinks) == (2, 0)
    assert [columns.of_token.tolist() for columns in first.columns] == [[0] * 2, [0] * 3]
    assert [columns.counts for columns in later.columns] == [(6,), (25,)]


def with_layout(**values):
    layout = layout_of(sinks=2, window_blocks=2, **values)
    return RollingCache(CONFIG.model_copy(update={"layout": layout}), GRID)


@torch.no_grad()
def test_every_pinned_block_lies_before_the_ring():
    cache = with_layout(pinned_blocks=3)
    spans = [cache.span("audio", block) for block in range(7)]
    assert spans[:3] == [Span(0, 3, 3), Span(3, 28, 28), Span(28, 53, 53)]
    assert spans[3:6] == [Span(53, 78, 78), Span(78, 103, 103), Span(103, 128, 128)]
    assert spans[6] == Span(53, 78, 128)
    assert cache.length("audio") == 128
    assert cache.ring("audio_self").anchor_keys.shape[3] == 53
    reads = [sorted(set(numbers(numbered(cache, "video_self", n)))) for n in range(7)]
    assert reads[2:] == [
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 4, 5, 6],
    ]


@torch.no_grad()
def test_pinned_blocks_move_together():
    cache = with_layout(pinned_blocks=2)
    ring = cache.ring("video_self")
    ring.keys.normal_()
    pinned, later = ring.keys[..., :8, :].clone(), ring.keys[..., 8:, :].clone()
    cache.see_from(4)
    assert torch.equal(ring.keys[..., :8, :], pinned)
    cache.see_from(6)
    turn = path_table(CONFIG, "video_self").time_shift(2.0, 8, torch.device("cpu"))
    assert torch.allclose(ring.keys[0, :, :, :8], turn(pinned[0]), atol=1e-6)
    assert not torch.allclose(ring.keys[..., :8, :], pinned)
    assert torch.equal(ring.keys[..., 8:, :], later)


@torch.no_grad()
def test_an_anchor_that_stays_is_neither_turned_nor_kept_twice():
    cache = with_layout(anchor="stays")
    ring = cache.ring("audio_self")
    ring.keys.normal_()
    before = ring.keys.clone()
    cache.see_from(600)
    assert torch.equal(ring.keys, before)
    assert ring.anchor_keys.numel() == 0


@pytest.mark.parametrize("gradients", [False, True])
def test_a_pathway_that_sees_its_own_block_alone_has_no_cache(gradients):
    cache = with_layout(cross_view="own")
    assert [cache.ring(path) is None for path in FIRST] == [False, True, False, True]
    view = CachedView(cache, 1)
    own = torch.randn(1, 2, 25, 4)
    with torch.set_grad_enabled(gradients):
        assert view.slot("audio_to_video", 0) is None
        read = view.read("audio_to_video", 0, own, own)
    assert read.keys is own
    assert read.mask is None
