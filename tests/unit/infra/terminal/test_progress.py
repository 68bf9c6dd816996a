"""What somebody who waits for a command sees of its progress."""

import io

import pytest
from rich.console import Console

from infra.terminal.progress import (
    LineProgress,
    SilentProgress,
    TerminalProgress,
    figures_text,
    progress_to,
)


def test_a_log_gets_a_line_when_a_stage_begins_and_one_when_it_ends() -> None:
    log = io.StringIO()
    with LineProgress(log).stage("decode", 3) as stage:
        for _ in range(3):
            stage.advance()
    first, last = log.getvalue().splitlines()
    assert first.startswith("decode  0/3") and first.endswith("started")
    assert last.startswith("decode  3/3") and last.endswith("done")


def test_a_log_line_carries_the_latest_figures() -> None:
    log = io.StringIO()
    with LineProgress(log, seconds_between_lines=0).stage("stage_1", None) as stage:
        stage.advance(loss=0.5)
        stage.advance(2, loss=0.41234567)
    assert "loss 0.4123" in log.getvalue().splitlines()[2]
    assert log.getvalue().splitlines()[2].startswith("stage_1  3  ")


def test_a_stage_that_breaks_off_does_not_say_done() -> None:
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt), LineProgress(log).stage("decode", 3):
        raise KeyboardInterrupt
    assert log.getvalue().splitlines()[-1].endswith("stopped")


def test_a_terminal_shows_nested_stages_and_can_be_used_again() -> None:
    screen = io.StringIO()
    progress = TerminalProgress(Console(file=screen, force_terminal=True, width=120))
    for name in ("first", "second"):
        with progress.stage(name, 2) as outer, progress.stage(f"{name} inner", None) as inner:
            inner.advance(loss=0.25)
            outer.advance(2)
    shown = screen.getvalue()
    assert "first inner" in shown and "second" in shown and "loss 0.25" in shown and "2/2" in shown


def test_a_pipe_gets_lines_and_no_control_characters() -> None:
    pipe = io.StringIO()
    with progress_to(pipe).stage("decode", 1) as stage:
        stage.advance()
    assert "\x1b" not in pipe.getvalue()


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress().stage("decode", 1) as stage:
        stage.advance(loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_figures_are_short() -> None:
    figures = {"loss": 0.412345, "rate": 123456.7, "step": 1234567, "state": "warm"}
    assert figures_text(figures) == "loss 0.4123  rate 1.235e+05  step 1234567  state warm"
    assert figures_text({}) == ""


def test_lines_in_between_wait_for_their_time_and_the_last_unit_has_none() -> None:
    log = io.StringIO()
    with LineProgress(log, seconds_between_lines=3600).stage("decode", 3) as stage:
        stage.advance(2)
    assert len(log.getvalue().splitlines()) == 2
    log = io.StringIO()
    with LineProgress(log, seconds_between_lines=0).stage("decode", 3) as stage:
        stage.advance(2)
        stage.advance()
    assert [line.split("  ")[1] for line in log.getvalue().splitlines()] == ["0/3", "2/3", "3/3"]
