"""Run everything once on this machine and write a report: data, training, serving, lineage."""

from pathlib import Path
from typing import Annotated

import typer

from infra.stages import STUDENT
from infra.terminal.command_line import Invocation, command, run_log
from pipelines.demo.demo import STREAM_FILE, demo
from pipelines.demo.report.page import HTML_FILE, DemoRecord


def register(app: typer.Typer) -> None:
    """Add `omniforcing demo` to `app`."""

    @command(app, "demo")
    def run_demo(
        call: Invocation,
        media: Annotated[
            list[Path] | None, typer.Argument(help="Your own clips: files or folders.")
        ] = None,
        out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
            "out/demo"
        ),
    ) -> None:
        """Render clips, preprocess, train every stage briefly, serve, stream, and report.

        Takes some minutes; a second run makes only what is missing or has changed. Everything that
        is started is stopped.
        """
        with run_log(str(out)):
            record = demo(call.config, out.absolute(), media or [], call.progress)
        paths = {"report": str(out / HTML_FILE), "stream_file": str(out / STREAM_FILE)}
        call.result(record.as_dict() | paths, _closing_lines(record, out))


def _closing_lines(record: DemoRecord, out: Path) -> str:
    values, scores = record.as_dict()["stream"], record.scores
    figures = (
        f"first chunk {values['first_chunk_s']:.2f} s, {values['fps']:.0f} frames/s,"
        f" block p50 {values['block_p50_s'] * 1000:.0f} ms,"
        f" p99 {values['block_p99_s'] * 1000:.0f} ms, offset {values['av_offset_ms']:.0f} ms"
    )
    student = scores[STUDENT]
    return "\n".join(
        (
            f"report   {out / HTML_FILE}",
            f"stream   {out / STREAM_FILE}: {figures}",
            f"student  {values['model']}: offset {student['av_offset_ms_median']:.0f} ms"
            f" (real {scores['real']['av_offset_ms_median']:.0f} ms),"
            f" rate {student['rate_accuracy']:.0%}, colour {student['colour_accuracy']:.0%},"
            f" pitch {student['pitch_accuracy']:.0%}",
            f"rows     {record.dataset['ok']} of {record.dataset['rows']} used;"
            f" {record.seconds:.0f} s in all; nothing is left running",
        )
    )
