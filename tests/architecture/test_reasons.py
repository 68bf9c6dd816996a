"""A row is refused for a reason that is explained to its owner: infra/dataset/reasons.py."""

import ast
from itertools import pairwise

from infra.dataset.reasons import Reason

HOME = "infra/dataset/reasons.py"
ROOMS = ("actors/clips/", "actors/latents/", "actors/captions/", "pipelines/preprocessing/")
NAMES = {reason.value for reason in Reason}
# Arguments and variables that hold a reason.
HOLDERS = {"reason", "problem", "text_reason"}
OUTCOMES = {"FILTERED", "QUARANTINED"}


def words_for_reasons(tree):
    """Reasons that are strings of their own: where one is handed over, or a known one anywhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            found.add((node.lineno, node.value))
        for keyword in getattr(node, "keywords", ()):
            if keyword.arg in HOLDERS and is_word(keyword.value):
                found.add((node.lineno, keyword.value.value))
        arguments = getattr(node, "args", ())
        for before, argument in pairwise(arguments) if isinstance(node, ast.Call) else ():
            if getattr(before, "id", "") in OUTCOMES and is_word(argument):
                found.add((node.lineno, argument.value))
    return sorted(found)


def is_word(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != ""


def test_reasons_are_named_by_their_constants(sources):
    typed = [
        f"{source.path.as_posix()}:{line} {word!r}"
        for source in sources
        if source.path.as_posix().startswith(ROOMS)
        for line, word in words_for_reasons(source.tree)
    ]
    assert not typed, f"add these to {HOME}, and take them from there:\n" + "\n".join(typed)


def test_every_reason_is_given_by_its_constant(sources):
    used = {
        node.attr
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Reason"
    }
    assert {reason.name for reason in Reason} <= used


def test_a_word_for_a_reason_is_found_wherever_it_stands():
    for line in (
        'Survey("", QUARANTINED, "eaten_by_a_dog", "expected a clip")',
        'clip._replace(problem="eaten_by_a_dog")',
        'Refusal(reason="eaten_by_a_dog")',
        'return "silence", "expected sound"',
    ):
        assert words_for_reasons(ast.parse(line, mode="exec")), line
    for line in ('Survey("", OK, "", "")', "Survey('', QUARANTINED, Reason.FAILED, '')"):
        assert not words_for_reasons(ast.parse(line)), line
