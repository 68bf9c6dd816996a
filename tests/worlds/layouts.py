"""Layouts of macro-blocks by name, with single values changed."""

from typing import Any

from omniforcing_model.config import LayoutConfig
from omniforcing_model.families import LAYOUTS


def layout_of(name: str = "paper", **values: Any) -> LayoutConfig:
    """The layout `name` of the table, with `values` in the place of its own."""
    return LayoutConfig.model_validate(LAYOUTS[name].model_dump() | values)
