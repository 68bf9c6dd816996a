"""A folder can be taken in at a glance, says what it is for, and is in no circle with others."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

from tests.mutation.reach import Reach, module_name

MOST_MODULES = 18
UNIT = Path("tests/unit")


def circles(arrows):
    """Nodes that can be reached from themselves, with where they lead."""
    reached = {node: set(following) for node, following in arrows.items()}
    for middle in list(reached):
        for following in reached.values():
            if middle in following:
                following.update(reached[middle])
    return sorted(node for node, following in reached.items() if node in following)


def our_arrows(repository, sources):
    reach = Reach(repository, texts=False)
    ours = {module_name(source.path) for source in sources}
    return {name: reach.imports(name) & ours for name in ours}


def test_no_folder_has_more_modules_than_one_takes_in(sources):
    modules = Counter(source.path.parent for source in sources if source.path.name != "__init__.py")
    crowded = [f"{folder}: {count}" for folder, count in modules.items() if count > MOST_MODULES]
    assert not crowded, f"more than {MOST_MODULES} modules, make rooms:\n" + "\n".join(crowded)


def test_every_room_says_what_it_is_for(sources):
    silent = [
        str(source.path)
        for source in sources
        if source.path.name == "__init__.py" and not ast.get_docstring(source.tree)
    ]
    assert not silent, "give it a docstring of a line:\n" + "\n".join(silent)


def test_every_package_has_a_readme(repository, sources):
    without = [
        package
        for package in sorted({source.package for source in sources})
        if not (repository / package / "README.md").is_file()
    ]
    assert not without


def test_no_module_imports_itself_by_way_of_others(repository, sources):
    assert circles(our_arrows(repository, sources)) == []


def test_no_folder_leads_back_to_itself(repository, sources):
    folder = {module_name(source.path): source.path.parent for source in sources}
    arrows = defaultdict(set)
    for name, following in our_arrows(repository, sources).items():
        arrows[folder[name]] |= {folder[other] for other in following} - {folder[name]}
    assert circles(arrows) == []


def test_unit_tests_stand_where_their_module_or_folder_stands(repository, sources):
    modules = {source.path for source in sources}
    places = modules | {path.parent.with_suffix(".py") for path in modules}
    lost = [
        str(test)
        for path in (repository / UNIT).rglob("test_*.py")
        if (test := path.relative_to(repository))
        and test.relative_to(UNIT).with_name(test.name.removeprefix("test_")) not in places
    ]
    assert not lost, "no module at the same path:\n" + "\n".join(lost)


def test_circles_are_found_whatever_their_length():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
