"""Look into a dataset, compare two, check one, or remove what it no longer needs."""

import io
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.dataset.outcome_table import OutcomeCounts
from infra.dataset.reasons import RefusedRows
from infra.errors import ConfigError
from infra.terminal.command_line import FAILED, Invocation, command
from pipelines.datasets.cleaning import Cleaning, clean
from pipelines.datasets.difference import DatasetDifference, difference
from pipelines.datasets.files import UnfinishedRun
from pipelines.datasets.overview import (
    DatasetOverview,
    FinishedDataset,
    RowOutcomes,
    overview,
    row_outcomes,
)
from pipelines.datasets.verification import Verification, verify_dataset
from pipelines.preprocessing.gate_lines import GateLine

TEXT_WIDTH = 110
SHORT_DIGEST = len("sha256:") + 12
Place = Annotated[str, typer.Argument(metavar="DATASET", help="Its folder or URI.")]
Limit = Annotated[int, typer.Option(min=0, help="Rows to list of each sort.")]


def register(app: typer.Typer) -> None:
    """Add `omniforcing dataset` with its own commands to `app`."""
    dataset = typer.Typer(help=__doc__)
    _add_show(dataset)
    _add_diff(dataset)
    _add_verify(dataset)
    _add_gc(dataset)
    app.add_typer(dataset, name="dataset")


def _add_show(dataset: typer.Typer) -> None:
    @command(dataset, "show")
    def run_show(
        call: Invocation,
        place: Place,
        outcome: Annotated[
            str | None,
            typer.Option(help="List rows of this outcome: ok, filtered or quarantined."),
        ] = None,
        reason: Annotated[
            str | None, typer.Option(help="With --outcome: only for this reason.")
        ] = None,
        limit: Limit = 20,
    ) -> None:
        """Show what a dataset holds and its sources, or how far its run is.

        With --outcome: list its rows, and the reason of each.
        """
        if outcome is None:
            if reason is not None:
                raise ConfigError("expected --outcome with --reason, got none; name the outcome")
            contents = overview(place)
            call.result(contents.model_dump(mode="json"), _overview_text(contents))
            return
        rows = row_outcomes(place, outcome, reason, limit)
        call.result(rows.model_dump(mode="json"), _row_outcomes_text(rows))


def _add_diff(dataset: typer.Typer) -> None:
    @command(dataset, "diff")
    def run_diff(
        call: Invocation,
        a: Annotated[str, typer.Argument(metavar="A", help="Folder or URI of a dataset.")],
        b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
        limit: Limit = 20,
    ) -> None:
        """Tell which rows and which settings differ; exit status 1 if the content does."""
        diff = difference(a, b, limit)
        call.result(diff.model_dump(mode="json"), _difference_text(diff))
        if not diff.same:
            raise typer.Exit(FAILED)


def _add_verify(dataset: typer.Typer) -> None:
    @command(dataset, "verify")
    def run_verify(
        call: Invocation,
        place: Place,
        quick: Annotated[
            bool, typer.Option("--quick", help="Only whether files are there with their size.")
        ] = False,
        repair: Annotated[
            bool,
            typer.Option(
                "--repair", help="Remove damaged files, so that preprocess makes them again."
            ),
        ] = False,
    ) -> None:
        """Check every file, digest and row; exit status 1 if something is wrong."""
        lease_s = call.config.output.lease_s if repair else None
        verification = verify_dataset(place, call.progress, quick=quick, repair_lease_s=lease_s)
        call.result(verification.model_dump(mode="json"), _verification_text(verification))
        if verification.problems:
            raise typer.Exit(FAILED)


def _add_gc(dataset: typer.Typer) -> None:
    @command(dataset, "gc")
    def run_gc(
        call: Invocation,
        place: Place,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Tell what would go, and remove nothing.")
        ] = False,
        keep_cache: Annotated[
            bool,
            typer.Option(
                "--keep-cache",
                help="Keep results that looser gates or other configurations could use again.",
            ),
        ] = False,
        force: Annotated[
            bool, typer.Option("--force", help="Also soon after a run was stopped.")
        ] = False,
    ) -> None:
        """Remove files that the manifest does not name, and merge the parts of the log.

        Not while something reads an older version of the dataset: its files go. So do results of
        rows that a gate takes out now, which a looser one would bring back, unless --keep-cache.
        """
        done = clean(
            place,
            call.progress,
            dry_run=dry_run,
            keep_cache=keep_cache,
            force=force,
            lease_s=call.config.output.lease_s,
        )
        call.result(done.model_dump(mode="json"), _cleaning_text(done))


def _overview_text(contents: DatasetOverview) -> str:
    lines = [contents.dataset]
    if contents.at_work is not None:
        lines.append(f"at work     {contents.at_work}")
    if contents.finished is not None:
        lines += _finished_lines(contents.finished)
    if contents.unfinished is not None:
        lines += _unfinished_lines(contents.unfinished, anew=contents.finished is not None)
    sizes = [(f"{size.folder}/", f"{size.files:,}", f"{size.bytes:,}") for size in contents.files]
    lines.append(_table(("folder", "files", "bytes"), sizes, numbers_from=1))
    if contents.finished is not None and contents.finished.refused:
        lines += ["", "not in the dataset:", _refused_table(contents.finished.refused)]
    if contents.finished is not None and contents.finished.gates:
        lines += ["", "gates (data.gates; a change decides again from what was measured):"]
        lines.append(_gates_table(contents.finished.gates))
    return "\n".join(lines)


def _gates_table(gates: Iterable[GateLine]) -> str:
    rows = [
        (each.setting, f"{each.limit:,.10g}", each.meaning, each.reason, f"{each.refused:,}")
        for each in gates
    ]
    return _table(("setting", "limit", "meaning", "reason", "rows"), rows)


def _refused_table(refused: Iterable[RefusedRows]) -> str:
    rows = [
        (each.reason, each.outcome, f"{each.rows:,}", f"{each.meaning} {each.advice}".strip())
        for each in refused
    ]
    return _table(("reason", "outcome", "rows", "what it means, and what to do"), rows)


def _finished_lines(finished: FinishedDataset) -> list[str]:
    lines = [
        f"kind        {finished.kind}, {finished.rows:,} rows",
        f"digest      {finished.digest}",
    ]
    if finished.counts is not None:
        lines.append(f"outcomes    {_counts_text(finished.counts)}")
    if finished.sizes:
        sizes = ", ".join(f"{rows:,} of {size}" for size, rows in finished.sizes.items())
        lines.append(f"sizes       {sizes} (height x width)")
    if finished.attempts:
        tried = ", ".join(f"{n} for {rows:,} rows" for n, rows in finished.attempts.items())
        lines.append(f"attempts    {tried}")
    if finished.clips is not None:
        lines.append(f"clips       {finished.clips}, preset {finished.preset}")
    for name, digest in finished.codecs.items():
        lines.append(f"codec       {name} {digest}")
    for name, digest in finished.recipes.items():
        lines.append(f"recipe      {name} {digest}")
    return [*lines, f"commit      {finished.commit or 'not known'}"]


def _unfinished_lines(run: UnfinishedRun, *, anew: bool) -> list[str]:
    what = "made anew" if anew else "not finished"
    return [
        f"{what:<12}{run.listed:,} clips listed, last written {run.idle_s:,.0f} s ago; run the same"
        " preprocess again to go on",
        f"  clips     {_counts_text(run.clips)}",
        f"  windows   {_counts_text(run.windows)}",
        f"  captions  {_counts_text(run.captions)}",
    ]


def _counts_text(counts: OutcomeCounts) -> str:
    parts = [f"{counts.ok:,} ok"]
    for name, reasons in (("filtered", counts.filtered), ("quarantined", counts.quarantined)):
        if reasons:
            why = ", ".join(f"{rows:,} {reason}" for reason, rows in reasons.items())
            parts.append(f"{sum(reasons.values()):,} {name} ({why})")
    return f"{', '.join(parts)} of {counts.rows:,}"


def _row_outcomes_text(outcomes: RowOutcomes) -> str:
    rows = [
        (row.clip_uri, f"{row.start_s:g}", row.reason, str(row.attempts), row.error)
        for row in outcomes.rows
    ]
    table = _table(("clip", "start s", "reason", "tried", "error"), rows)
    return f"{table}\n{_limit_note(len(rows), outcomes.found)}"


def _difference_text(diff: DatasetDifference) -> str:
    lines = [
        f"{name}  {side.digest[:SHORT_DIGEST]}  {side.rows:,} rows  {side.dataset}"
        for name, side in (("a", diff.a), ("b", diff.b))
    ]
    lines.append("same content" if diff.same else "different content")
    parts = ", ".join(f"{rows:,} in {part}" for part, rows in diff.changed_parts.items())
    lines.append(
        f"rows: {diff.unchanged:,} unchanged, {diff.changed:,} changed"
        f"{f' ({parts})' if parts else ''}, {diff.only_in_a:,} only in a,"
        f" {diff.only_in_b:,} only in b"
    )
    lines += _why_lines(diff)
    rows = [("a", row.clip_uri, f"{row.start_s:g}", row.row_id, "") for row in diff.rows_only_in_a]
    rows += [("b", row.clip_uri, f"{row.start_s:g}", row.row_id, "") for row in diff.rows_only_in_b]
    rows += [
        ("both", row.clip_uri, f"{row.start_s:g}", row.row_id_b, ", ".join(row.differs))
        for row in diff.rows_changed
    ]
    if rows:
        shortened = [(*row[:3], row[3][:12], row[4]) for row in rows]
        lines.append(_table(("in", "clip", "start s", "row", "differs in"), shortened))
        total = diff.only_in_a + diff.only_in_b + diff.changed
        lines.append(_limit_note(len(rows), total))
    return "\n".join(lines)


def _why_lines(diff: DatasetDifference) -> list[str]:
    """What the recipes say of the difference; what else it may be, if they say nothing."""
    lines = []
    for each in diff.recipe:
        meaning = f" ({each.meaning})" if each.meaning else ""
        lines.append(f"recipe: {each.key} is {each.a} in a, {each.b} in b{meaning}")
    if diff.same_id:
        lines.append(
            f"{diff.same_id:,} rows have one id in both and other content: a was made by commit"
            f" {diff.a.commit}, b by {diff.b.commit}; if that is the same code, the machines differ"
        )
    if not diff.same and not diff.recipe and not diff.same_id:
        lines.append("recipe: the same in both; the clips or their captions differ")
    return lines


def _verification_text(verification: Verification) -> str:
    checked = "sizes of files" if verification.quick else "files, rows and digests"
    wrong = f"{len(verification.problems)} problems" if verification.problems else "nothing wrong"
    size = f"{verification.files:,} files, {verification.rows:,} rows"
    lines = [f"{verification.dataset}: {size}; {checked}: {wrong}"]
    lines += [f"{problem.file} {_one_line(problem.what)}" for problem in verification.problems]
    lines += [f"removed {name}" for name in verification.removed]
    return "\n".join([*lines, verification.advice or verification.digest])


def _cleaning_text(done: Cleaning) -> str:
    sizes = [(f"{size.folder}/", f"{size.files:,}", f"{size.bytes:,}") for size in done.files]
    lines = [_table(("folder", "files", "bytes"), sizes, numbers_from=1)] if sizes else []
    if done.log_parts:
        merged = "parts to merge" if done.dry_run else "parts merged"
        lines.append(f"log: {done.log_parts:,} {merged}")
    verb = "would free" if done.dry_run else "freed"
    lines.append(f"{verb} {done.freed_files:,} files, {done.freed_bytes:,} bytes in {done.dataset}")
    if done.results:
        they = "hold" if done.dry_run else "held"
        lines.append(
            f"they {they} {done.results:,} results (latents or text of a row) that no row has now;"
            " with a loosened gate or an earlier configuration they are encoded again. --keep-cache"
            " keeps them"
        )
    return "\n".join(lines)


def _limit_note(listed: int, total: int) -> str:
    return f"{listed:,} of {total:,} rows" + ("; more with --limit" if listed < total else "")


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers_from: int | None = None
) -> str:
    """A table for people; names and errors of others stand in it as they are, on one line."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        right = numbers_from is not None and number >= numbers_from
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_one_line(value)) for value in row))
    screen = Console(file=io.StringIO(), width=TEXT_WIDTH, record=True)
    screen.print(table)
    return "\n".join(line.rstrip() for line in screen.export_text().splitlines() if line.strip())


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
