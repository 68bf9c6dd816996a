"""Which fields of a configuration are read, and whether a recipe answers for them."""

from contextlib import contextmanager

from pydantic import BaseModel

from infra.runs.provenance import flatten
from infra.runs.stage_recipe import NOT_DECIDING, NOT_DECIDING_SETTINGS
from omniforcing_model.config import FrozenConfig


@contextmanager
def reads_of(config):
    """Gives a set that gets the dotted path of each field of `config` that is read meanwhile."""
    prefixes, read = dict(_sections(config)), set()

    def noted(self, name):
        value = object.__getattribute__(self, name)
        if id(self) in prefixes and name in _fields_of(self) and not isinstance(value, BaseModel):
            read.add(f"{prefixes[id(self)]}{name}")
        return value

    FrozenConfig.__getattribute__ = noted
    try:
        yield read
    finally:
        del FrozenConfig.__getattribute__


def unanswered(read, stage, recipe):
    """The paths in `read` that neither the recipe of `stage` holds nor a reason leaves out."""
    keys = flatten(recipe)
    own, left_out = f"stages.{stage}.", [*NOT_DECIDING]
    left_out += [f"{own}{name}" for name in NOT_DECIDING_SETTINGS]
    in_recipe = {path: path.replace(own, "settings.", 1) for path in read}
    return {
        path
        for path in read
        if in_recipe[path] not in keys
        and not any(f"{path}.".startswith(f"{listed}.") for listed in left_out)
    }


def _fields_of(config):
    return object.__getattribute__(config, "__class__").model_fields


def _sections(config, prefix=""):
    yield id(config), prefix
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _sections(value, f"{prefix}{name}.")
