"""What one public release differs in from another, as a table; imports no torch.

The tensors of all of them have the same names and shapes. What they compute does not show in a
file, so it is stated.
"""

from omniforcing_model.config import BlockLatents, LayoutConfig

PREFIX = BlockLatents(video=1, audio=1)
FIRST_SECOND = BlockLatents(video=4, audio=26)

# Layouts by name, for where somebody chooses one; configurations and files say the numbers.
LAYOUTS = {
    "paper": LayoutConfig(first_block=PREFIX, sinks=0, window_blocks=4),
    "released": LayoutConfig(first_block=FIRST_SECOND, sinks=0, window_blocks=4),
}
