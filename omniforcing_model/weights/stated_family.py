"""The family that a checkpoint is of: the part of a model that its tensors do not show.

LTX-2 rotates split halves at float64 frequencies and multiplies its cross timestep by 1000; the
released OmniForcing weights were trained with neighbouring pairs, float32 and 1; others see other
blocks. The tensors have the same names and shapes, and the wrong rule computes noise without an
error. So a checkpoint states what it can, the caller states the family (families.py), and what
differs is refused unless the caller overrides it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omniforcing_model.config import FamilyName, LayoutConfig, ModelConfig
from omniforcing_model.errors import WeightsError
from omniforcing_model.families import FAMILIES, LAYOUT_RULES, Family, Profile

LOG = logging.getLogger(__name__)
SIGMA_ROUNDING = 1e-3
BELIEVE = "leave the family out, or override it if you know better"


@dataclass(frozen=True)
class StatedFamily:
    """What the caller states about a checkpoint, where the checkpoint may not state it itself.

    `layout` is for LTX-2's checkpoints, which have no macro-blocks; our own folders keep theirs.
    `family` is a row of FAMILIES: it fills in what a checkpoint leaves open and is refused where
    the checkpoint states another, unless `override` is set. `phases` is the precision of positions
    times frequencies, which may be chosen for any weights: LTX-2's unless it is stated.
    """

    layout: LayoutConfig | None = None
    phases: Literal["float64", "float32"] | None = None
    family: FamilyName | None = None
    override: bool = False

    @classmethod
    def of(cls, model: ModelConfig) -> "StatedFamily":
        """What a run's configuration states about the model that it loads."""
        return cls(layout=model.layout, phases=model.rotary.phases, family=model.family)

    @property
    def row(self) -> Family | None:
        """The family's row, None if none is stated; WeightsError if there is no such family."""
        if self.family is None:
            return None
        if self.family not in FAMILIES:
            raise WeightsError(
                f"expected a family of {', '.join(FAMILIES)}, got {self.family!r}; name one"
            )
        return FAMILIES[self.family]

    @property
    def layout_of_family(self) -> LayoutConfig | None:
        """The layout of files that have none: the stated one, or that of the family."""
        return self.layout or (self.row.layout if self.row else None)


def resolve_profile(
    own: Mapping[str, Any], stated: StatedFamily, path: Path, reason: str
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
    if stated.row is None:
        missing = [field for field in Profile._fields if field not in own]
        if missing:
            raise WeightsError(
                f"expected {path} to say its profile, got no {', '.join(missing)}; state the"
                f" family of its weights ({', '.join(FAMILIES)})"
            )
        return Profile(**own)
    profile = stated.row.profile
    other = [
        f"{field} {value} instead of {getattr(profile, field)}"
        for field, value in own.items()
        if value != getattr(profile, field)
    ]
    if other and not stated.override:
        raise WeightsError(
            f"expected weights of the family {stated.family} ({profile}), got {', '.join(other)}"
            f" in {path}: {reason}. The tensors have the same names, but with another profile they"
            f" compute noise; {BELIEVE}"
        )
    return profile


def with_stated_family(config: ModelConfig, stated: StatedFamily, path: Path) -> ModelConfig:
    """`config` of the checkpoint `path` as its stated family has it.

    Raises:
        WeightsError: it is of another family, or its macro-blocks are others.
    """
    if stated.row is None:
        return config
    other = [] if config.family in (None, stated.family) else [f"family {config.family}"]
    layout = config.layout
    if stated.row.layout is not None:
        rules = {name: getattr(stated.row.layout, name) for name in sorted(LAYOUT_RULES)}
        other += [
            f"{name} {_shown(getattr(layout, name))} instead of {_shown(value)}"
            for name, value in rules.items()
            if getattr(layout, name) != value
        ]
        layout = layout.model_copy(update=rules)
    if other and not stated.override:
        raise WeightsError(
            f"expected weights and macro-blocks of the family {stated.family}, got"
            f" {', '.join(other)} for {path}. They would run, and show what the weights were not"
            f" trained for; {BELIEVE}"
        )
    return config.model_copy(update={"layout": layout, "family": stated.family})


def warn_of_other_sigmas(model: ModelConfig, sigmas: Sequence[float]) -> None:
    """Say so where weights of a release are streamed at other sigmas than they were made for."""
    if model.family is None or not FAMILIES[model.family].sigmas:
        return
    made_for = FAMILIES[model.family].sigmas
    if not _are_close(sigmas, made_for):
        LOG.warning(
            "weights of the family %s were made for the sigmas %s, this run streams at %s; set"
            " sampling.student_sigmas",
            model.family,
            list(made_for),
            list(sigmas),
        )


def _are_close(some: Sequence[float], others: Sequence[float]) -> bool:
    """Releases round their sigmas, each in its own way."""
    return len(some) == len(others) and all(
        abs(a - b) < SIGMA_ROUNDING for a, b in zip(some, others, strict=True)
    )


def _shown(value: Any) -> str:
    """A value of a layout in few words."""
    return f"{value.video}|{value.audio}" if hasattr(value, "video") else str(value)
