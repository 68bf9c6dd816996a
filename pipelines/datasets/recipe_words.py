"""In what two recipes differ, in words: for people who ask why one dataset is not another."""

from collections.abc import Mapping
from typing import Any

from infra.records import Record
from infra.runs.provenance import flatten

ABSENT = "absent"
# What the keys that begin so decide; the first that fits counts.
_MEANINGS = (
    ("survey.decoder", "another decoder may measure clips otherwise, and find other windows"),
    ("survey.split", "windows begin elsewhere in the clips"),
    ("survey.seconds", "windows have another length"),
    ("survey", "clips are measured otherwise"),
    ("latents.decoder", "another decoder gives other pictures and sound: every row is new"),
    ("latents.encoder", "the library that encodes rounds otherwise: every row is new"),
    ("latents.seconds", "windows have another length"),
    ("latents.loudness", "sound is brought to another loudness, or measured otherwise"),
    ("latents.codec", "other codecs give other latents"),
    ("latents.row_latents", "rows hold other numbers of latents"),
    ("latents", "latents are made otherwise"),
    ("text.rewriter", "captions are rewritten otherwise"),
    ("text.language", "other rewritten captions pass for English"),
    ("text.encoder", "the library that encodes text rounds otherwise: all text is new"),
    ("text", "captions are encoded otherwise"),
    ("gates", "other clips and windows are refused; those in both are the same"),
    ("max_windows", "more or fewer windows of a clip count; those in both are the same"),
    ("sizes", "clips get other sizes"),
)


class RecipeDifference(Record):
    """A key in which two recipes differ, both values, and what it decides ("" if that is not
    known)."""

    key: str
    a: str
    b: str
    meaning: str


def recipe_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[RecipeDifference, ...]:
    """Every key in which the recipes of two datasets differ."""
    of_a, of_b = flatten(a), flatten(b)
    return tuple(
        RecipeDifference(
            key=key,
            a=str(of_a.get(key, ABSENT)),
            b=str(of_b.get(key, ABSENT)),
            meaning=meaning_of(key),
        )
        for key in sorted(of_a.keys() | of_b.keys())
        if of_a.get(key, ABSENT) != of_b.get(key, ABSENT)
    )


def meaning_of(key: str) -> str:
    """What a key of a recipe decides."""
    return next((meaning for start, meaning in _MEANINGS if key.startswith(start)), "")
