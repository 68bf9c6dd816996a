"""The keys of preprocessing: digests of all that decides what a stage makes.

    clip     file name, size, time and place in its archive; decoder, length and split of windows
    window   content of the clip, start and size; decoder, loudness, both VAEs
    caption  raw caption and content of the clip; rewriter, text encoder
    row      window and caption

A changed caption changes the caption's key alone, a changed VAE the window's alone. Gates are in
none (pending_rows.py decides them), nor is what is configured of pools, servers and shards. Imports
neither torch nor Ray.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

# Parts of the keys: raise one when the same input gives another result than before.
SURVEY_VERSION = 4
LATENTS_VERSION = 4
TEXT_VERSION = 2


class RecipeDigests(NamedTuple):
    """Digests of what, besides its input, decides the result of each family of stages."""

    survey: str
    latents: str
    text: str


def keys(recipe: str, *columns: Iterable[Any]) -> list[str]:
    """One key per row of `columns`."""
    start = hashlib.sha256(recipe.encode())
    digests = []
    for row in zip(*columns, strict=True):
        sha256 = start.copy()
        sha256.update(json.dumps(row, ensure_ascii=False).encode())
        digests.append(sha256.hexdigest())
    return digests
