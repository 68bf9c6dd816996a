"""What somebody who types `omniforcing` sees: the list of commands, and one line for a mistake."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.cli import OUR_COMMANDS, main

PROMPT = "--prompt=a red disc flashes twice a second with a high beep"


def test_help_lists_every_command_with_its_summary(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    for name in OUR_COMMANDS:
        assert re.search(rf"{name}\s+[A-Z]\w+ ", shown), name


def test_help_comes_at_once_because_nothing_heavy_is_loaded() -> None:
    program = (
        "import sys; from pipelines.cli import main; status = main(['--help']);"
        "heavy = {'torch', 'ray', 'mlflow', 'numpy', 'av'} & set(sys.modules);"
        "sys.exit(status or (3 if heavy else 0))"
    )
    began = time.process_time()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.process_time() - began < 1


def test_a_command_explains_its_options(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    shown = capfd.readouterr().out
    assert all(option in shown for option in ("--preset", "--config", "--set", "--json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["plan", "nonsense"], "expected one of preprocess, distill, serve, got 'nonsense'"),
        (["plan", "--nonsense"], "No such option"),
        (["plan", "--preset", "huge"], "expected one of the presets"),
        (["plan", "--config", "/nowhere.yaml"], "expected a readable YAML file"),
        (["plan", "--set", "data.colour=red"], "in 'data.colour', got 'colour'; correct the path"),
        (["plan", "--set", "data.seconds=-1"], "greater than 0"),
        (["plan", "--set", "data.seconds"], "expected --set path=value"),
        (["preprocess", "--clips", "x"], "Missing option '--out'"),
        (["generate", PROMPT, "--out=x.mp4", "--seconds=-3"], "expected 1 to"),
        (["generate", PROMPT, "--out=x.mp4", "--seconds=soon"], "Invalid value"),
        (["generate", f"--prompt={'x' * 10_000}", "--out=x.mp4"], "at most 2,000 characters"),
        (["generate", "--prompt= ", "--out=x.mp4"], "got an empty one"),
        (["evaluate", "--prompts=0"], "Invalid value"),
        (["evaluate", "--models=stage_9=x"], "got stage_9"),
        (["distill", "--dataset=x", "--out=y", "--stage=stage_9"], "got stage_9"),
        (["distill", "--dataset=x", "--out=y", "--start=teacher"], "expected --start ROLE=MODEL"),
        (["render", "--out=x", "--clips=-1"], "Invalid value"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output, shown = capfd.readouterr()
    assert output == ""
    assert shown.startswith("error: ")
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert list(tmp_path.rglob("*.mp4")) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preprocess", "--clips=empty", "--out=dataset"], "expected clips"),
        (["preprocess", "--clips=nowhere", "--out=dataset"], "expected clips"),
        (["generate", PROMPT, "--out=x.mp4", "--model=nowhere"], "nowhere"),
        (["lineage", "nowhere"], "nowhere"),
        (["evaluate", "--prompts=1", "--models=teacher=nowhere"], "nowhere"),
    ],
)
def test_what_is_missing_is_one_line_and_status_1(
    arguments: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--json"]) == 1
    output, shown = capfd.readouterr()
    assert output == ""
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in shown


def test_a_package_may_add_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sailing.py").write_text(
        '"""Sail away."""\n'
        "from infra.terminal.command_line import command\n"
        "def register(app):\n"
        "    @command(app, 'sail')\n"
        "    def sail(call, knots: int = 5):\n"
        "        call.result({'knots': knots}, f'{knots} knots')\n"
    )
    info = tmp_path / "sailing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sailing\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[omniforcing.commands]\nsail = sailing:register\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--help"]) == 0
    assert "Sail away." in capfd.readouterr().out
    assert main(["sail", "--knots", "7"]) == 0
    assert capfd.readouterr().out == "7 knots\n"
