"""Logging, configured once per process: brief lines for people, JSON lines for machines.

Standard error gets the time, where it came from and the message. A run folder gets `log.jsonl`, one
object per line, with everything a logger was given in `extra=`.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from infra.errors import ConfigError

LOG = logging.getLogger(__name__)

OUR_PACKAGES = ("omniforcing_model", "infra", "actors", "pipelines", "serve")
LOG_FILE = "log.jsonl"
# What third parties say at INFO and below is about themselves, at length.
QUIETED = (
    "alembic",
    "botocore",
    "DeepSpeed",
    "deepspeed",
    "httpx",
    "matplotlib",
    "mlflow",
    "ray",
    "urllib3",
)
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; values JSON does not know become strings."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD_FIELDS}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class BriefLines(logging.Formatter):
    """`12:03:04 pipelines.preprocessing.preprocess: 3 clips left out`, without tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one brief line; the level is named from warnings on."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{time} {record.name}: {level}{' '.join(record.getMessage().split())}"


class _CurrentStandardError(logging.Handler):
    """Writes to what `sys.stderr` is now: progress bars replace it while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except OSError:
            self.handleError(record)


def configure_logging(verbose: bool = False) -> None:
    """Set this process's logging up; calling it again changes nothing but the level.

    Our own loggers are shown from INFO (DEBUG if `verbose`) and kept in log files from DEBUG;
    everybody else's count from WARNING.
    """
    root = logging.getLogger()
    shown = [handler for handler in root.handlers if isinstance(handler, _CurrentStandardError)]
    if not shown:
        shown = [_CurrentStandardError()]
        shown[0].setFormatter(BriefLines())
        root.addHandler(shown[0])
    shown[0].setLevel(logging.DEBUG if verbose else logging.INFO)
    root.setLevel(logging.WARNING)
    for package in OUR_PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)
    for name in QUIETED:
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow sets its level again when it is imported, and reads which one from here.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.captureWarnings(True)


class _FirstLineMakesFolder(logging.FileHandler):
    """Makes its folder with its first line: a call that is refused before leaves none."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", delay=True)
        self._is_whole = True

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Say once that lines are missing: a full disk ends the run elsewhere, in one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self._is_whole:
            self._is_whole = False
            LOG.warning("lines are missing in %s: %s", self.baseFilename, error)

    def close(self) -> None:
        """Close the file; what could not be written was told."""
        try:
            super().close()
        except OSError:
            if self._is_whole:
                raise

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


@contextmanager
def log_file(folder: Path) -> Iterator[Path]:
    """Append everything that is logged meanwhile to `folder`/log.jsonl, if anything is.

    ConfigError if there cannot be such a folder.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        got = "a folder that is closed to us" if there.is_dir() else "a file"
        raise ConfigError(
            f"expected a folder for the output at {folder}, got {got} at {there}; name another"
            " place"
        )
    handler = _FirstLineMakesFolder(folder / LOG_FILE)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield folder / LOG_FILE
    finally:
        root.removeHandler(handler)
        handler.close()
