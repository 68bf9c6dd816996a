"""Mutants differ from the code in one place, and are found where code computes."""

import ast

import pytest

from tests.mutation.sites import mutated, sites_of


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x = a < b", "x = (a <= b)"),
        ("x = a + b * 2", "x = (a - b * 2)"),
        ("x = a and b", "x = (a or b)"),
        ("x = not a", "x = (a)"),
        ("x = 3", "x = 4"),
        ("x = 0.0", "x = 1.0"),
        ("x = True", "x = False"),
        ("def f():\n    return a", "def f():\n    return None"),
        ("x = 'é' if a == b else c", "x = 'é' if (a != b) else c"),
    ],
)
def test_a_mutant_changes_one_place(source, changed):
    first = sites_of(source)[0]
    assert mutated(source, first)[0] == changed
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "x: Literal[3]",
        "def f(a: Literal[3]) -> Literal[4]: ...",
        "x = f'{3}'",
        "'''1 < 2'''",
        "x = 'a' + b",
    ],
)
def test_annotations_and_texts_are_left_alone(source):
    assert sites_of(source) == []
