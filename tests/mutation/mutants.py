"""Change non-test code a little, at places drawn by a seed, and see whether a test notices.

`python -m tests.mutation.mutants --out FILE.json` draws evenly over the packages and over the kinds
of change, runs each mutant in a copy of the repository against the tests that reach its module,
nearest first, for at most 90 s, and prints what nobody noticed. At last it runs the tests that
noticed something on the code as it is: a test that fails there noticed nothing.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from tests.mutation.reach import NEVER, PACKAGES, Reach
from tests.mutation.sites import KINDS, Site, mutated, sites_of

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 90
# A mutant may wait for ever: that is noticed too.
TEST_TIMEOUT_S = 45
# Exit statuses of pytest: a test failed, a file did not load; all passed, or there were none.
FAILED, NOT_LOADED = 1, 2
PASSED_OR_NONE = (0, 5)
LEFT_OUT = (".git", ".venv", "out", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__")


class Mutant(NamedTuple):
    """One change: module, place, and the change as text."""

    module: str
    site: Site
    change: str


class Verdict(NamedTuple):
    """Whether a test noticed a mutant, and which."""

    mutant: Mutant
    caught: bool
    by: str
    tests: int


def draw(reach: Reach, seed: int, count: int) -> Iterator[Mutant]:
    """Mutants in turn over packages and kinds, each in a module drawn by its number of places."""
    chance = random.Random(seed)
    for number in range(count):
        package = PACKAGES[number % len(PACKAGES)]
        kind = KINDS[number // len(PACKAGES) % len(KINDS)]
        places = [
            (module, site)
            for module in reach.modules(package)
            for site in sites_of((ROOT / reach.path(module)).read_text("utf-8"))
            if site.kind == kind
        ]
        module, site = chance.choice(places)
        change = mutated((ROOT / reach.path(module)).read_text("utf-8"), site)[1]
        yield Mutant(module, site, " ".join(change.split()))


def judge(reach: Reach, mutant: Mutant, copy: Path) -> Verdict:
    """Run the tests that reach the mutant's module in `copy`, with the mutant in it."""
    path = reach.path(mutant.module)
    source = (ROOT / path).read_text("utf-8")
    tests = reach.tests(mutant.module)
    (copy / path).write_text(mutated(source, mutant.site)[0], "utf-8")
    try:
        status, output = run_tests(copy, tests, LIMIT_S)
    finally:
        (copy / path).write_text(source, "utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if status not in (None, FAILED, NOT_LOADED, *PASSED_OR_NONE):
        raise RuntimeError(f"expected pytest to run, got status {status}: {output[-500:]}")
    caught = status in (FAILED, NOT_LOADED) and failed is not None
    return Verdict(mutant, caught, failed.group(1) if failed else "", len(tests))


def copied(place: Path) -> Path:
    """The repository's files as a repository of its own: some tests ask git for its files."""
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*LEFT_OUT))
    identity = ["-c", "user.name=mutants", "-c", "user.email=mutants@localhost"]
    for command in (["init"], ["add", "--all"], [*identity, "commit", "--message", "as it is"]):
        subprocess.run(["git", *command], cwd=place, check=True, capture_output=True)
    return place


def run_tests(where: Path, tests: list[str], limit_s: float) -> tuple[int | None, str]:
    """Exit status and output of pytest, until the first failure; None where time ran out."""
    marks = " and ".join(f"not {mark}" for mark in NEVER)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", marks, "-p", "no:cacheprovider"]
    command += ["-o", f"timeout={TEST_TIMEOUT_S}", *tests]
    environment = os.environ | {"PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0] or ""
        return process.returncode, output


def main() -> int:
    """Draw, judge and report; 1 if the share is below what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--only", default="", help="numbers of mutants, with commas between")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.85)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    reach = Reach(ROOT)
    only = [int(number) for number in options.only.split(",") if number]
    drawn = list(enumerate(draw(reach, options.seed, options.count)))
    chosen = [(number, mutant) for number, mutant in drawn if not only or number in only]
    verdicts: dict[int, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: Queue[Path] = Queue()
        for worker in range(options.workers):
            copies.put(copied(Path(folder) / str(worker)))

        def work(item: tuple[int, Mutant]) -> None:
            number, mutant = item
            copy = copies.get()
            verdicts[number] = judge(reach, mutant, copy)
            copies.put(copy)
            print(number, describe(verdicts[number]), flush=True)  # noqa: T201  # its report

        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(work, chosen))
        noticed = sorted({verdict.by.split("::")[0] for verdict in verdicts.values() if verdict.by})
        honest = run_tests(copies.get(), noticed, 3600)[0] == 0
    caught = sum(verdict.caught for verdict in verdicts.values())
    share = caught / max(1, len(verdicts))
    print(f"{caught} of {len(verdicts)} mutants caught ({share:.0%})")  # noqa: T201
    print(f"the tests that caught them pass without: {honest}")  # noqa: T201
    if options.out:
        report = {"seed": options.seed, "caught": caught, "mutants": len(verdicts)}
        report["verdicts"] = [describe(verdicts[number]) for number in sorted(verdicts)]
        options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return 0 if honest and share >= options.share else 1


def describe(verdict: Verdict) -> str:
    """One line."""
    mutant = verdict.mutant
    end = f"caught by {verdict.by}" if verdict.caught else f"SURVIVED {verdict.tests} files"
    return f"{mutant.module}:{mutant.site.line} {mutant.site.kind}: {mutant.change[:100]}: {end}"


if __name__ == "__main__":
    sys.exit(main())
