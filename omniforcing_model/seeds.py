"""Seeds from names: what a name decides is the same on every machine and in every process."""

import hashlib
from typing import Literal

TORCH_SEED_BITS = 63  # torch takes seeds below 2^63
UNIFORM_BITS = 53  # of a float between 0 and 1
TRAINING_SEED_BITS = 56  # of micro-batches and of the teacher's trajectories


def seed_of(
    *parts: object, bits: int = TORCH_SEED_BITS, byteorder: Literal["little", "big"] = "little"
) -> int:
    """A seed of `bits` bits from the SHA-256 of the parts, joined by slashes.

    Args:
        parts: what the seed depends on; each is written as `str` writes it.
        bits: of the seed, at most 256.
        byteorder: of the digest's first bytes, whose highest `bits` bits are the seed. Data sets
            and weights depend on it, so it stays what it is wherever a seed is in use.
    """
    size = -(-bits // 8)
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:size], byteorder) >> (8 * size - bits)


def uniform_of(*parts: object) -> float:
    """A number in [0, 1) from the parts, as `seed_of` takes them."""
    return float(seed_of(*parts, bits=UNIFORM_BITS) / 2**UNIFORM_BITS)
