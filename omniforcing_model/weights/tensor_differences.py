"""The tensors that a checkpoint lacks, has too many, or has in another shape."""

import difflib
import math
from collections.abc import Mapping
from typing import NamedTuple

Shape = tuple[int, ...]
SHOWN = 8
ALIKE = 0.8  # of difflib's ratio: one part of a long name spelled differently


class TensorDifferences(NamedTuple):
    """Names as the file spells them; `misshaped` with both shapes."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        named = [_with_likely_name(name, self.unexpected) for name in self.missing[:SHOWN]]
        parts = [
            _list_names("missing", self.missing, named),
            _list_names("unexpected", self.unexpected, self.unexpected[:SHOWN]),
            _list_names("of another shape", self.misshaped, self.misshaped[:SHOWN]),
        ]
        return "; ".join(part for part in parts if part)


def differences(expected: Mapping[str, Shape], present: Mapping[str, Shape]) -> TensorDifferences:
    """Compare names and shapes; an expected tensor without elements may be left out of the file."""
    needed = {name for name, shape in expected.items() if math.prod(shape)}
    misshaped = [
        f"{name} {present[name]} instead of {shape}" + _transposed_note(present[name], shape)
        for name, shape in sorted(expected.items())
        if name in present and present[name] != shape
    ]
    return TensorDifferences(
        tuple(sorted(needed - present.keys())),
        tuple(sorted(present.keys() - expected.keys())),
        tuple(misshaped),
    )


def _transposed_note(present: Shape, expected: Shape) -> str:
    return ": transposed" if present == expected[::-1] else ""


def _with_likely_name(name: str, unexpected: tuple[str, ...]) -> str:
    """A renamed tensor shows as one missing and one unexpected: name the likely partner."""
    if not unexpected:
        return name
    # Names of one checkpoint are alike: only those of the same layer and part can be the one.
    numbers = [part for part in name.split(".") if part.isdigit()]
    candidates = [
        other for other in unexpected if [p for p in other.split(".") if p.isdigit()] == numbers
    ]
    near = difflib.get_close_matches(name, candidates[:1000], n=1, cutoff=ALIKE)
    return f"{name} (spelled {near[0]}?)" if near else name


def _list_names(kind: str, names: tuple[str, ...], shown: list[str] | tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(shown)}{more}"
