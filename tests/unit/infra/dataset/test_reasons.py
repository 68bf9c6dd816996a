"""What people are told of rows that are not in a dataset."""

import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest

from infra.config import GatesConfig
from infra.dataset.outcome_table import OutcomeCounts
from infra.dataset.reasons import Reason, explained_counts


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_says_in_sentences_what_it_means_and_what_to_do(reason):
    assert reason.outcome in ("filtered", "quarantined")
    for sentence in (reason.meaning, reason.advice):
        assert sentence[0].isupper()
        assert sentence.endswith(".")


def test_a_reason_is_its_name_wherever_it_goes():
    assert Reason.TOO_LARGE == "too_large"
    assert f"{Reason.TOO_LARGE}" == "too_large"
    assert pickle.loads(pickle.dumps(Reason.TOO_LARGE)) is Reason.TOO_LARGE
    assert pa.array([Reason.TOO_LARGE, ""], pa.string()).to_pylist() == ["too_large", ""]


def test_settings_that_the_advice_names_are_there():
    words = " ".join(f"{reason.meaning} {reason.advice}" for reason in Reason)
    named = set(re.findall(r"\b(?:data\.gates\.|(?=min_|max_))(\w+)", words))
    assert named
    assert named <= GatesConfig.model_fields.keys()


def test_counts_are_explained_by_outcome_and_the_most_frequent_first():
    counts = OutcomeCounts(
        rows=9,
        ok=1,
        filtered={"silence": 1, "too_long": 4, "of_another_version": 1},
        quarantined={"unreadable": 2},
    )
    lines = explained_counts(counts)
    assert [(line.outcome, line.reason, line.rows) for line in lines] == [
        ("filtered", "too_long", 4),
        ("filtered", "of_another_version", 1),
        ("filtered", "silence", 1),
        ("quarantined", "unreadable", 2),
    ]
    assert lines[0].meaning == Reason.TOO_LONG.meaning
    assert lines[0].advice == Reason.TOO_LONG.advice
    assert (lines[1].meaning, lines[1].advice) == ("", "")


def test_the_documentation_explains_every_reason_in_the_same_words():
    text = (Path(__file__).resolve().parents[4] / "pipelines/README.md").read_text()
    lines = [f"| `{each}` | {each.outcome} | {each.meaning} {each.advice} |" for each in Reason]
    missing = [line for line in lines if line not in text]
    assert not missing, "put into pipelines/README.md:\n" + "\n".join(missing)
