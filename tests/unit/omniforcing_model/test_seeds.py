import pytest
import torch

from omniforcing_model.seeds import TORCH_SEED_BITS, TRAINING_SEED_BITS, seed_of, uniform_of

# SHA-256 of "a/1" begins with the bytes 77 32 32 ab e9 34 3f 0e.


def test_a_seed_is_the_start_of_the_digest():
    assert seed_of("a", 1, bits=16) == 0x3277
    assert seed_of("a", 1, bits=16, byteorder="big") == 0x7732
    assert seed_of("a/1", bits=16) == seed_of("a", 1, bits=16)


def test_a_seed_of_no_whole_bytes_keeps_the_highest_bits():
    assert seed_of("a", 1, bits=15) == 0x3277 >> 1
    assert seed_of("a", 1, bits=9, byteorder="big") == 0x7732 >> 7


@pytest.mark.parametrize(
    ("parts", "settings", "seed"),
    [
        ((0, "video", 1, 2), {}, 4233616340427060189),
        ((7, "stage_3", "critic", 12, 3), {"bits": TRAINING_SEED_BITS}, 50500504058059480),
        (("sha256:1",), {"bits": 32, "byteorder": "big"}, 1370390432),
        (("red",), {"bits": 128, "byteorder": "big"}, 236546001754031854389042782321793250022),
    ],
)
def test_seeds_in_use_stay_what_they_are(parts, settings, seed):
    assert seed_of(*parts, **settings) == seed


def test_torch_takes_every_seed_of_the_default_size():
    assert TORCH_SEED_BITS == 63
    seeds = [seed_of(number) for number in range(64)]
    assert max(seeds) >= 1 << 62
    for seed in (*seeds, (1 << 63) - 1):
        torch.Generator().manual_seed(seed)


def test_a_uniform_number_is_below_one_and_spread_evenly():
    drawn = [uniform_of("name", number) for number in range(1000)]
    assert 0 <= min(drawn) < 0.01
    assert 0.99 < max(drawn) < 1
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.03
    assert uniform_of("name", 7) == drawn[7]
