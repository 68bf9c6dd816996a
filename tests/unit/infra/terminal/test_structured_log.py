"""What a run folder's log holds, and what stays off the screen."""

import json
import logging
import sys
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.terminal.progress import LineProgress
from infra.terminal.structured_log import configure_logging, log_file


def test_a_run_folder_gets_one_json_object_per_line_with_its_fields(tmp_path: Path) -> None:
    configure_logging()
    with log_file(tmp_path / "run") as path:
        logging.getLogger("pipelines.training.distill").info(
            "step done", extra={"stage": "stage_1"}
        )
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert line["message"] == "step done"
    assert line["stage"] == "stage_1"
    assert line["level"] == "info"
    assert line["time"].endswith("+00:00")


def test_an_exception_is_kept_in_the_file_and_is_one_line_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    with log_file(tmp_path) as path:
        try:
            raise ValueError("clip 3\nis broken")
        except ValueError as error:
            logging.getLogger("actors.clips.clip_decoder").exception("left out: %s", error)
    assert "Traceback" in json.loads(path.read_text())["exception"]
    shown = capsys.readouterr().err
    assert "left out: clip 3 is broken" in shown
    assert len(shown.splitlines()) == 1


def test_what_libraries_say_about_themselves_is_not_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    for name in ("ray.data", "mlflow.store", "httpx", "some.library"):
        logging.getLogger(name).info("hello from %s", name)
    logging.getLogger("pipelines.evaluation.evaluate").info("hello from us")
    assert capsys.readouterr().err.count("hello") == 1


def test_configuring_twice_does_not_show_lines_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    logging.getLogger("serve.app").warning("one")
    assert capsys.readouterr().err.count("one") == 1


def test_a_run_folder_keeps_what_every_stage_reached_and_the_screen_shows_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    with log_file(tmp_path) as path, LineProgress(sys.stderr).stage("stage_1", 2) as stage:
        stage.advance(2, loss=0.25)
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["stage"], last["done"], last["figures"]) == ("stage_1", 2, {"loss": 0.25})
    assert last["message"] == "stage_1 done"
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_file_gets_nothing_after_the_run(tmp_path: Path) -> None:
    configure_logging()
    with log_file(tmp_path) as path:
        logging.getLogger("pipelines.training.distill").debug("meanwhile")
    logging.getLogger("pipelines.training.distill").warning("later")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["meanwhile"]


def test_a_run_that_is_refused_at_once_leaves_no_folder(tmp_path: Path) -> None:
    configure_logging()
    with log_file(tmp_path / "runs" / "new"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    for folder in (tmp_path / "out", tmp_path / "out" / "below"):
        expected = f"expected a folder for the output at {folder}, got a file at {tmp_path}/out; n"
        with pytest.raises(ConfigError, match=expected), log_file(folder):
            pass


def test_a_log_that_cannot_be_written_says_so_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with log_file(tmp_path) as path:
        for _ in range(3):
            logging.getLogger("pipelines.training.distill").debug("a line")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"lines are missing in {path}: [Errno 28] No space left on device")
