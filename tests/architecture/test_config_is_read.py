"""A knob that nothing reads is a lie; each field of a run is read somewhere."""

import ast
from pathlib import Path

from pydantic import BaseModel

from infra.config import RunConfig
from infra.stages import ModelsConfig, StagesConfig

DECLARING = {
    Path("infra/config.py"),
    Path("infra/stages.py"),
    Path("omniforcing_model/config.py"),
}
# Their fields are the stages, which are read by the names of the table.
BY_NAME = {StagesConfig.__name__, ModelsConfig.__name__}


def models_in(annotation):
    """The configuration classes that an annotation names, at any depth (unions, tuples, dicts)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(models_in(part) for part in getattr(annotation, "__args__", ())))


def fields_below(model):
    """Every (class, field) of a model and of the models in it."""
    found, waiting, seen = set(), {model}, set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for name, field in current.model_fields.items():
            found.add((current.__name__, name))
            waiting |= models_in(field.annotation) - seen
    return found


def names_read(sources):
    """Every name read as an attribute; of the declaring files, only the properties count."""
    trees = [source.tree for source in sources if source.path not in DECLARING]
    for source in sources:
        if source.path in DECLARING:
            trees += [n for n in ast.walk(source.tree) if isinstance(n, ast.FunctionDef)]
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_field_of_a_run_is_read(sources):
    read = names_read(sources)
    unread = sorted(
        f"{model}.{name}"
        for model, name in fields_below(RunConfig)
        if name not in read and model not in BY_NAME
    )
    assert not unread, "read it or remove it:\n" + "\n".join(unread)


def test_fields_are_found_at_any_depth():
    class Leaf(BaseModel):
        deep: int

    class Tree(BaseModel):
        leaves: tuple[Leaf, ...]
        chosen: Leaf | None

    assert fields_below(Tree) == {("Tree", "leaves"), ("Tree", "chosen"), ("Leaf", "deep")}
