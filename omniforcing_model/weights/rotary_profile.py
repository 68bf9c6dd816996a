"""The profile that a checkpoint was trained with: the part of a model that its tensors do not show.

LTX-2 rotates split halves at float64 frequencies and multiplies its cross timestep by 1000; the
released OmniForcing weights were trained with neighbouring pairs, float32 and 1. The tensors have
the same names and shapes, and the wrong profile computes noise without an error. So a checkpoint
states its profile, and another one is refused unless the caller overrides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omniforcing_model.config import LayoutConfig, ModelConfig
from omniforcing_model.errors import WeightsError


class Profile(NamedTuple):
    """Rotary pairs, precision of their frequencies, and LTX-2's cross timestep multiplier."""

    pairs: str
    frequencies: str
    gate_timestep_scale: float

    def __str__(self) -> str:
        return f"{self.pairs}, {self.frequencies}, multiplier {self.gate_timestep_scale:g}"


PROFILES = {
    "ltx-2": Profile("split", "float64", 1000.0),
    "released": Profile("interleaved", "float32", 1.0),
}


@dataclass(frozen=True)
class StatedProfile:
    """What the caller states about a checkpoint, where the checkpoint may not state it itself.

    `layout` is for LTX-2's checkpoints, which have no macro-blocks; our own folders keep theirs.
    `profile` is a name of PROFILES: it fills in what a checkpoint leaves open and is refused where
    the checkpoint states another, unless `override` is set. `phases` is the precision of positions
    times frequencies, which may be chosen for any weights: LTX-2's unless it is stated.
    """

    layout: LayoutConfig | None = None
    phases: Literal["float64", "float32"] | None = None
    profile: str | None = None
    override: bool = False

    @classmethod
    def of(cls, model: ModelConfig) -> "StatedProfile":
        """What a run's configuration states about the model that it loads."""
        return cls(layout=model.layout, phases=model.rotary.phases)


def resolve_profile(
    own: Mapping[str, Any], stated: StatedProfile, path: Path, reason: str
) -> Profile:
    """The profile to run a checkpoint with.

    Args:
        own: the fields of Profile that the checkpoint states, perhaps not all.
        stated: what the caller states.
        path: the checkpoint, for errors.
        reason: how the checkpoint states them.

    Raises:
        WeightsError: they disagree, or neither states it.
    """
    if stated.profile is None:
        missing = [field for field in Profile._fields if field not in own]
        if missing:
            raise WeightsError(
                f"expected {path} to say its profile, got no {', '.join(missing)}; state the"
                f" profile it was trained with ({', '.join(PROFILES)})"
            )
        return Profile(**own)
    if stated.profile not in PROFILES:
        raise WeightsError(
            f"expected a profile of {', '.join(PROFILES)}, got {stated.profile!r}; name one"
        )
    profile = PROFILES[stated.profile]
    other = [
        f"{field} {value} instead of {getattr(profile, field)}"
        for field, value in own.items()
        if value != getattr(profile, field)
    ]
    if other and not stated.override:
        raise WeightsError(
            f"expected weights of the profile {stated.profile} ({profile}), got {', '.join(other)}"
            f" in {path}: {reason}. The tensors have the same names, but with another profile they"
            " compute noise; leave the profile out, or override it if you know better"
        )
    return profile
