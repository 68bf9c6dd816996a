"""Raw captions to full sentences on picture and sound."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omniforcing_model.beacon_world import beacon_caption, parse_caption
from omniforcing_model.errors import CaptionError


class CaptionRewriter(Protocol):
    """Turns a raw caption into one that a model learns from."""

    def rewrite(self, caption: str, seed: int) -> str | None:
        """The new caption, None if this rewriter does not understand `caption`.

        `seed` draws the wording: the same caption and seed give the same words.
        """
        ...


class GrammarRewriter:
    """A `CaptionRewriter` for captions of the beacon world."""

    def rewrite(self, caption: str, seed: int) -> str | None:
        """A full sentence with the colour, rate and pitch of `caption`; None for other captions."""
        try:
            return beacon_caption(parse_caption(caption), seed)
        except CaptionError:
            return None


REWRITERS: Mapping[str, type[CaptionRewriter]] = {"grammar": GrammarRewriter}


class CaptionRewriting:
    """Rewrites the captions of rows; one that the rewriter does not understand stays as it is."""

    def __init__(self, rewriter: str) -> None:
        """Load the rewriter of that name in the configuration."""
        self._rewriter = REWRITERS[rewriter]()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `caption` and the flag `rewritten` to rows with `caption_raw` and `clip_digest`."""
        raw = [str(caption) for caption in batch["caption_raw"]]
        seeds = [_seed(str(digest)) for digest in batch["clip_digest"]]
        new = [self._rewriter.rewrite(text, seed) for text, seed in zip(raw, seeds, strict=True)]
        captions = [old if text is None else text for old, text in zip(raw, new, strict=True)]
        return {
            **batch,
            "caption": np.array(captions, dtype=object),
            "rewritten": np.array([text is not None for text in new]),
        }


def _seed(clip_digest: str) -> int:
    """Clips with the same raw caption get different words, and each always the same ones."""
    return int.from_bytes(hashlib.sha256(clip_digest.encode()).digest()[:4], "big")
