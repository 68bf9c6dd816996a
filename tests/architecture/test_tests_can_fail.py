"""A test without an assertion passes whatever the code does."""

import ast

# What fails by itself: pytest's own, NumPy's and PyTorch's comparisons, our waiting.
FAILING = ("raises", "fail", "warns", "wait_until")
STARTS = ("assert_", "expect_")


def called(tree):
    """Last names of everything that is called below."""
    return {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }


def can_fail(tree):
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree)) or any(
        name in FAILING or name.startswith(STARTS) for name in called(tree)
    )


def without_an_assertion(tree):
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    helpers = {node.name for node in functions if can_fail(node)}
    tests = [node for node in functions if node.name.startswith("test_")]
    return [node.name for node in tests if not can_fail(node) and not called(node) & helpers]


def test_every_test_can_fail(repository, repository_files):
    places = [
        f"{file.relative_to(repository)}: {name}"
        for file in repository_files
        if file.name.startswith("test_") and file.suffix == ".py"
        for name in without_an_assertion(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not places, "assert what the test's name says:\n" + "\n".join(places)


def test_a_test_that_only_calls_is_noticed():
    tree = ast.parse("def test_a(): f()\ndef g(): assert x\ndef test_b(): g()")
    assert without_an_assertion(tree) == ["test_a"]
