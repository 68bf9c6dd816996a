"""What the architecture tests read: the repository, its files, and our sources as trees."""

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("omniforcing_model", "infra", "actors", "pipelines", "serve")
NOT_OURS = {".git", ".venv", "out", "build", "dist", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """One Python file of our packages; `path` is relative to the repository."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.path.parts[0]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    files = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    assert files, f"expected our packages in {ROOT}"
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    return [
        Source(file.relative_to(ROOT), text, ast.parse(text, str(file)))
        for file, text in texts.items()
    ]


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    """Files that are, or could be, committed: what git tracks or does not ignore."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked source distribution
        files = [file for file in ROOT.rglob("*") if not NOT_OURS & set(file.parts)]
    return sorted(file for file in files if file.is_file())
