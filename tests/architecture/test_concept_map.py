"""The README tells where each word of the paper lives; every path it gives exists."""

import re

HEADING = "## Where is ... ?"
FEWEST_ROWS = 20


def concept_rows(readme):
    """(word, [paths]) of the table under the heading."""
    section = readme.partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:  # after the header and its rule
        word, places = (cell.strip() for cell in line.strip("|").split("|"))
        yield word, re.findall(r"`([^`]+)`", places)


def test_every_path_of_the_concept_map_exists(repository):
    rows = list(concept_rows((repository / "README.md").read_text(encoding="utf-8")))
    assert len(rows) >= FEWEST_ROWS, f"expected the table under {HEADING!r}"
    empty = [word for word, paths in rows if not paths]
    assert not empty, f"no path for {empty}"
    missing = [
        f"{word}: {path}"
        for word, paths in rows
        for path in paths
        if not (repository / path).exists()
    ]
    assert not missing, "the README names files that are not there:\n" + "\n".join(missing)


def test_links_of_the_readmes_lead_to_files(repository, repository_files):
    dead = [
        f"{readme.relative_to(repository)}: {target}"
        for readme in repository_files
        if readme.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", readme.read_text(encoding="utf-8"))
        if "://" not in target and not (readme.parent / target).exists()
    ]
    assert not dead, "\n".join(dead)
