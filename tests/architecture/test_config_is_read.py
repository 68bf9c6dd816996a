"""A knob that nothing reads is a lie; each field of a run is read somewhere, of its own class."""

import ast

from pydantic import BaseModel

from infra.config import RunConfig
from tests.architecture.config_reads import ConfigReads
from tests.mutation.reach import module_name


def models_in(annotation):
    """The configuration classes that an annotation names, at any depth (unions, tuples, dicts)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(models_in(part) for part in getattr(annotation, "__args__", ())))


def fields_below(model):
    """Every (class, field) of a model and of the models in it."""
    fields, waiting, visited = set(), {model}, set()
    while waiting:
        current = waiting.pop()
        visited.add(current)
        for name, field in current.model_fields.items():
            fields.add((current, name))
            waiting |= models_in(field.annotation) - visited
    return fields


def is_a_use(module, cls):
    """A plan tells what a run would do: what only a plan reads does nothing."""
    return not module.startswith("pipelines.planning") or cls[1] == "PlanningConfig"


def test_every_field_of_a_run_is_read_of_its_class_or_of_one_that_it_extends(sources):
    trees = {module_name(source.path): source.tree for source in sources}
    reads = ConfigReads(trees, is_a_use).reads
    unread = [
        f"{model.__name__}.{name}"
        for model, name in fields_below(RunConfig)
        if not any(((base.__module__, base.__name__), name) in reads for base in model.__mro__)
    ]
    assert not unread, "read it or remove it:\n" + "\n".join(sorted(unread))


def test_fields_are_found_at_any_depth():
    class Leaf(BaseModel):
        deep: int

    class Tree(BaseModel):
        leaves: tuple[Leaf, ...]
        chosen: Leaf | None

    assert fields_below(Tree) == {(Tree, "leaves"), (Tree, "chosen"), (Leaf, "deep")}


CONFIG = """
class Part(FrozenConfig):
    batch: int
    size: int
    @property
    def area(self): return self.size ** 2

class Wide(Part):
    width: int

class Other(FrozenConfig):
    batch: int
    size: int

class Run(FrozenConfig):
    part: Part
    wide: Wide
    others: tuple[Other, ...]
"""


def reads_of(text):
    """`Class.field` that the module `text` reads of the classes above."""
    trees = {"config": ast.parse(CONFIG), "reader": ast.parse(text)}
    return {f"{cls}.{name}" for (_, cls), name in ConfigReads(trees).reads}


IMPORTS = "from config import Run, Part, Wide, Other\n"


def test_a_field_that_is_read_of_another_class_only_stays_unread():
    read = reads_of(IMPORTS + "def f(run: Run): return run.part.batch")
    assert read == {"Run.part", "Part.batch"}


def test_a_class_of_the_same_name_from_elsewhere_is_another():
    assert reads_of("from train import Run\ndef f(run: Run): return run.part.batch") == set()


def test_types_are_followed_through_names_loops_attributes_and_calls():
    text = IMPORTS + (
        "class Job(NamedTuple):\n"
        "    run: Run\n"
        "    out: str\n"
        "class Worker:\n"
        "    def __init__(self, run: Run):\n"
        "        self._part = run.part\n"
        "    def work(self):\n"
        "        return self._part.batch\n"
        "def part_of(run: Run) -> Part: return run.wide\n"
        "def f(job: Job):\n"
        "    run, out = job\n"
        "    sizes = [other.size for other in run.others]\n"
        "    return part_of(run).size\n"
    )
    assert reads_of(text) == {
        "Run.part",
        "Run.wide",
        "Run.others",
        "Part.batch",
        "Other.size",
        "Part.size",
    }


def test_what_a_property_reads_counts_where_the_property_is_read_and_for_that_class():
    assert "Part.size" not in reads_of(IMPORTS + "def f(part: Part): return part.batch")
    read = reads_of(IMPORTS + "def f(wide: Wide): return wide.area")
    assert read == {"Wide.area", "Wide.size"}


def test_a_class_that_is_asked_for_is_read():
    text = "def f(part: Part): return isinstance(part, Wide) and part.width"
    assert "Wide.width" in reads_of(IMPORTS + text)


def test_a_base_whose_method_is_called_may_be_any_of_those_that_extend_it():
    more = (
        "class Tall(Part):\n"
        "    height: int\n"
        "    @property\n"
        "    def area(self): return self.height\n"
    )
    reader = IMPORTS + "def f(part: Part): return part.area"
    trees = {"config": ast.parse(CONFIG + more), "reader": ast.parse(reader)}
    assert (("config", "Tall"), "height") in ConfigReads(trees).reads
