"""What the weights of one public release compute, and those of another do not: one row for each.

The tensors of all of them have the same names and shapes, and what they are made for shows in no
file. So it is stated, by the name of a row. Imports no torch.
"""

from typing import NamedTuple

from omniforcing_model.config import BlockLatents, FamilyName, LayoutConfig

PREFIX = BlockLatents(video=1, audio=1)
FIRST_SECOND = BlockLatents(video=4, audio=26)

# Layouts by name, for where somebody chooses one; configurations and files say the numbers.
LAYOUTS = {
    "paper": LayoutConfig(first_block=PREFIX, sinks=0, window_blocks=4),
    "released": LayoutConfig(first_block=FIRST_SECOND, sinks=0, window_blocks=4),
}


class Profile(NamedTuple):
    """Rotary pairs, precision of their frequencies, and LTX-2's cross timestep multiplier."""

    pairs: str
    frequencies: str
    gate_timestep_scale: float

    def __str__(self) -> str:
        return f"{self.pairs}, {self.frequencies}, multiplier {self.gate_timestep_scale:g}"


class Family(NamedTuple):
    """One release: its profile, its layout with anchor, view and sigma rule, and its sampling."""

    profile: Profile
    layout: LayoutConfig | None
    """None of weights that are not causal."""
    sigmas: tuple[float, ...]
    """Of the denoising steps, descending, without the 0; none of weights of many steps."""
    fps: int


LTX = Profile("split", "float64", 1000.0)
FAMILIES: dict[FamilyName, Family] = {
    "ltx-2": Family(LTX, None, (), 24),
    "omniforcing-5s": Family(
        Profile("interleaved", "float32", 1.0),
        LAYOUTS["released"],
        (1.0, 0.906229, 0.726524, 0.420719),
        24,
    ),
    # It drops nothing in the first five blocks, and its learned memory is not part of our model.
    "taomate": Family(
        Profile("split", "float32", 1.0),
        LayoutConfig(first_block=FIRST_SECOND, sinks=0, window_blocks=2, anchor="stays"),
        (1.0, 0.7506967, 0.5447712),
        24,
    ),
    # Its camera branch is not part of our model.
    "echo-wm-flash": Family(
        LTX,
        LayoutConfig(
            first_block=BlockLatents(video=1, audio=2),
            sinks=0,
            pinned_blocks=3,
            window_blocks=3,
            cross_sigma="one",
            prompt_sigma="one",
        ),
        (1.0, 0.9626806, 0.8965548, 0.7473050),
        24,
    ),
    # It sees all of a clip of 10 s. The borders of its audio depend on the clip's length, within a
    # latent of ours.
    "lightx2v-ar": Family(
        LTX,
        LayoutConfig(
            first_block=BlockLatents(video=3, audio=25),
            sinks=0,
            window_blocks=10,
            anchor="stays",
            cross_view="own",
        ),
        (1.0, 0.75, 0.5, 0.25),
        24,
    ),
}
# What weights are trained for; sinks are tensors, and a window may be chosen.
LAYOUT_RULES = tuple(set(LayoutConfig.model_fields) - {"sinks", "window_blocks"})
