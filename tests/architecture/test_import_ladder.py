"""Imports go down the ladder only, whatever depth they stand at."""

import ast
from collections.abc import Iterator

# Each package, and the other packages of ours that it may import.
LADDER = {
    "omniforcing_model": set(),
    "infra": {"omniforcing_model"},
    "actors": {"omniforcing_model", "infra"},
    "pipelines": {"omniforcing_model", "infra", "actors"},
    "serve": {"omniforcing_model", "infra", "actors"},
}
# infra loads in milliseconds: of the model it may know the values and the errors, not the tensors.
INFRA_MAY_SEE = ("omniforcing_model.config", "omniforcing_model.errors")
# The model is mathematics: it runs in a notebook, without a cluster, a store or a server.
NOT_IN_MODEL = {"ray", "fastapi", "boto3", "mlflow", "pyarrow", "deepspeed"}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def names(dotted, prefix):
    return dotted == prefix or dotted.startswith(f"{prefix}.")


def test_every_package_has_a_rung(sources):
    assert {source.package for source in sources} == set(LADDER)


def test_imports_go_down_only(sources):
    climbs = [
        f"{source.path}:{line} imports {name}"
        for source in sources
        for line, name in imports(source.tree)
        if (top := name.partition(".")[0]) in LADDER
        and top != source.package
        and top not in LADDER[source.package]
    ]
    assert not climbs, "move the shared part down:\n" + "\n".join(climbs)


def test_infra_sees_only_values_and_errors_of_the_model(sources):
    climbs = [
        f"{source.path}:{line} imports {name}"
        for source in sources
        if source.package == "infra"
        for line, name in imports(source.tree)
        if names(name, "omniforcing_model") and not any(names(name, ok) for ok in INFRA_MAY_SEE)
    ]
    assert not climbs, f"infra may name {INFRA_MAY_SEE} only:\n" + "\n".join(climbs)


def test_the_model_knows_no_cluster_store_or_server(sources):
    climbs = [
        f"{source.path}:{line} imports {name}"
        for source in sources
        if source.package == "omniforcing_model"
        for line, name in imports(source.tree)
        if name.partition(".")[0] in NOT_IN_MODEL
    ]
    assert not climbs, "this belongs in infra, actors or above:\n" + "\n".join(climbs)


def test_our_own_code_is_imported_at_the_top_of_a_file(sources):
    hidden = [
        f"{source.path}:{line} imports {name} inside {function.name}"
        for source in sources
        for function in ast.walk(source.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for line, name in imports(function)
        if name.partition(".")[0] in LADDER
    ]
    assert not hidden, "an import inside a function hides a knot; untie it:\n" + "\n".join(hidden)


def test_relative_imports_stay_in_their_folder(sources):
    far = [
        f"{source.path}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level > 1 or (node.level == 1 and "." in (node.module or "")))
    ]
    assert not far, "name the package in full:\n" + "\n".join(far)


def test_the_reader_of_imports_finds_them_at_any_depth():
    tree = ast.parse(
        "import a.b\n"
        "def f():\n"
        "    if x:\n"
        "        from c.d import e\n"
        "    importlib.import_module('g.h')\n"
    )
    assert sorted(imports(tree)) == [(1, "a.b"), (4, "c.d.e"), (5, "g.h")]
