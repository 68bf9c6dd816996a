"""Which test files reach a module through imports, nearest first."""

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("omniforcing_model", "infra", "actors", "pipelines", "serve")
# Marks of tests that take long to begin: their files come after others that are two steps farther.
LATE = {"ray": 2, "serve": 2, "parity": 2}
NEVER = ("slow", "kills", "corpus", "s3", "quiet", "gpu")


def module_name(path: Path) -> str:
    """Dotted name of a file relative to the repository."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, known: Mapping[str, Path], texts: bool) -> Iterator[str]:
    """Modules of ours that a file imports or, with `texts`, names in a text to be loaded later."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif texts and isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        yield from (name for name in names if name in known)


def _is_ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in PACKAGES


class Reach:
    """The import graph of a repository, from its tests down."""

    def __init__(self, root: Path, texts: bool = True) -> None:
        """Read every file; with `texts` a module named in a text counts as imported."""
        files = [p for top in (*PACKAGES, "tests") for p in (root / top).rglob("*.py")]
        self._files = {module_name(p.relative_to(root)): p for p in files}
        trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self._files.items()}
        self._imports = {
            name: set(imported_modules(tree, self._files, texts and _is_ours(name))) - {name}
            for name, tree in trees.items()
        }
        self._root = root

    def modules(self, package: str) -> list[str]:
        """Modules of a package that hold code."""
        return sorted(
            name
            for name, path in self._files.items()
            if name.split(".")[0] == package and path.name != "__init__.py"
        )

    def imports(self, module: str) -> set[str]:
        """Modules of ours, and of the tests, that a module names."""
        return set(self._imports[module])

    def path(self, module: str) -> Path:
        """A module's file, relative to the repository."""
        return self._files[module].relative_to(self._root)

    def tests(self, module: str) -> list[str]:
        """Test files that reach `module`: its own first, then by the number of imports between."""
        path = self.path(module)
        mirror = f"tests/unit/{path.parent.as_posix()}/test_{path.stem}.py"
        near: list[tuple[int, str]] = []
        for test in (name for name in self._files if name.split(".")[-1].startswith("test_")):
            steps = self._steps(test, module)
            if steps is None:
                continue
            file = self.path(test).as_posix()
            text = self._files[test].read_text("utf-8")
            late = sum(more for mark, more in LATE.items() if f"mark.{mark}" in text)
            near.append((-1 if file == mirror else steps + late, file))
        return [file for _, file in sorted(near)]

    def _steps(self, start: str, goal: str) -> int | None:
        reached, waiting = {start: 0}, deque([start])
        while waiting:
            name = waiting.popleft()
            if name == goal:
                return reached[name]
            for following in self._imports[name] - reached.keys():
                reached[following] = reached[name] + 1
                waiting.append(following)
        return None
