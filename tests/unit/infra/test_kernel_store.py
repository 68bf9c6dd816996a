"""Processes that run at the same time go by one choice of kernels, whatever is proposed then."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.kernel_store import KernelStore, kernel_folder

# Goes by the folder until its standard input ends.
OTHER = """
import sys
from pathlib import Path
from infra.kernel_store import KernelStore
store = KernelStore(Path(sys.argv[1]))
print((store.settle() or {}).get("name"), flush=True)
sys.stdin.read()
"""


class OtherProcess:
    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.goes_by = self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_nothing_is_chosen_before_something_is_proposed(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "kernels")
    assert store.latest() is None
    assert store.settle() is None


def test_what_is_proposed_holds_from_the_next_start_on(tmp_path: Path) -> None:
    running = KernelStore(tmp_path)
    assert running.settle() is None
    running.propose({"name": "first"})
    assert running.settle() is None
    assert running.latest() == {"name": "first"}
    running.release()
    assert KernelStore(tmp_path).settle() == {"name": "first"}


def test_a_process_that_begins_beside_another_goes_by_the_same(tmp_path: Path) -> None:
    KernelStore(tmp_path).propose({"name": "first"})
    one = OtherProcess(tmp_path)
    KernelStore(tmp_path).propose({"name": "second"})
    beside = OtherProcess(tmp_path)
    one.end()
    third = OtherProcess(tmp_path)
    assert [one.goes_by, beside.goes_by, third.goes_by] == ["first"] * 3
    beside.end()
    third.end()
    after = OtherProcess(tmp_path)
    after.end()
    assert after.goes_by == "second"


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    other = OtherProcess(tmp_path)
    KernelStore(tmp_path).propose({"name": "first"})
    other.kill()
    assert KernelStore(tmp_path).settle() == {"name": "first"}


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "choice.json").write_text(text)
    assert KernelStore(tmp_path).settle() is None


def test_one_process_measures_at_a_time(tmp_path: Path) -> None:
    with KernelStore(tmp_path).measuring() as first, KernelStore(tmp_path).measuring() as second:
        assert (first, second) == (True, False)
    with KernelStore(tmp_path).measuring() as later:
        assert later


def test_another_processor_and_another_pytorch_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = [kernel_folder()]
    monkeypatch.setattr("infra.kernel_store.processor_facts", lambda: ("another", "flags"))
    folders.append(kernel_folder())
    monkeypatch.setattr("infra.kernel_store.metadata.version", lambda _: "0.0")
    folders.append(kernel_folder())
    assert len(set(folders)) == 3
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_without_a_cache_folder_it_is_below_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernel_folder().is_relative_to(tmp_path / ".cache" / "omniforcing")
