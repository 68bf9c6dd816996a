"""What `omniforcing dataset` prints, and its exit status; on this machine and in object storage."""

import json
import subprocess
import sys

import pytest

from infra.dataset.reasons import Reason
from infra.storage.object_store import ObjectStore
from pipelines.cli import main
from tests.worlds.datasets import RECIPES, THREE, WINDOW, make_old, names, preprocessed, surveyed
from tests.worlds.s3_server import credentials, make_bucket, s3_server

BAD = {"a.mp4": ("quarantined", "unreadable"), "b.mp4": ("filtered", "silence")}


@pytest.fixture
def dataset(tmp_path):
    preprocessed(tmp_path / "a", bad=BAD)
    return str(tmp_path / "a")


@pytest.fixture
def run(capfd):
    """Run a command; its exit status and what it printed, read as JSON if that was asked for."""

    def run_command(*arguments):
        capfd.readouterr()
        status = main(["dataset", *arguments])
        shown = capfd.readouterr()
        lines = [line for line in shown.err.splitlines() if line.startswith("error")]
        if shown.out and "--json" in arguments:
            return status, json.loads(shown.out)
        return status, shown.out or "\n".join(lines)

    return run_command


def test_show_prints_a_dataset_for_people_and_for_programs(dataset, run):
    status, text = run("show", dataset)
    assert status == 0
    assert "1 ok, 1 filtered (1 silence), 1 quarantined (1 unreadable) of 3" in text
    assert "latents, 1 rows" in text
    assert "latents/" in text
    status, values = run("show", dataset, "--json")
    assert values["finished"]["rows"] == 1
    assert values["finished"]["digest"] in text


def test_show_explains_why_rows_are_not_in_the_dataset(dataset, run):
    _, text = run("show", dataset)
    for reason in (Reason.SILENCE, Reason.UNREADABLE):
        assert reason.meaning[:50] in text
    _, values = run("show", dataset, "--json")
    refused = {line["reason"]: line for line in values["finished"]["refused"]}
    assert refused["silence"]["meaning"] == Reason.SILENCE.meaning
    assert refused["unreadable"]["advice"] == Reason.UNREADABLE.advice


def test_show_lists_rows_with_their_errors(dataset, run):
    status, text = run("show", dataset, "--outcome=quarantined")
    assert status == 0
    assert "a.mp4" in text
    assert "expected better, got unreadable" in text
    assert text.endswith("1 of 1 rows\n")
    _, values = run("show", dataset, "--outcome=filtered", "--reason=silence", "--json")
    assert [row["clip_uri"] for row in values["rows"]] == ["b.mp4"]
    assert run("show", dataset, "--reason=silence")[0] == 2
    assert run("show", dataset, "--outcome=filtered", "--reason=darkness")[0] == 2


def test_show_says_what_a_run_that_has_not_ended_has_done(tmp_path, run):
    surveyed(tmp_path)
    status, text = run("show", str(tmp_path))
    assert status == 0
    assert "not finished" in text
    assert "3 clips listed" in text
    assert "3 ok of 3" in text


def test_names_of_clips_are_shown_as_they_are_but_cannot_steer_a_terminal(tmp_path, run):
    name = "[bold]x[/bold]\x1b[2J\n.mp4"
    preprocessed(tmp_path, {name: "a dog"})
    _, text = run("show", str(tmp_path), "--outcome=ok")
    assert "[bold]x[/bold]?[2J .mp4" in text


def test_diff_ends_like_diff(dataset, tmp_path, run):
    preprocessed(tmp_path / "b", bad=BAD)
    status, text = run("diff", dataset, str(tmp_path / "b"))
    assert status == 0
    assert "same content" in text
    preprocessed(tmp_path / "c", THREE | {"c.mp4": "a gong"})
    status, text = run("diff", dataset, str(tmp_path / "c"))
    assert status == 1
    assert "1 changed (1 in caption, 1 in caption_raw, 1 in text)" in text
    assert "0 only in a, 2 only in b" in text
    status, values = run("diff", dataset, str(tmp_path / "c"), "--json", "--limit=1")
    assert status == 1
    assert (values["only_in_b"], len(values["rows_only_in_b"])) == (2, 1)


def test_diff_says_which_decoder_made_which(tmp_path, run):
    for name, version in (("a", "17.0.0"), ("b", "18.1.0")):
        decoder = {"latents": {"decoder": {"av": version}}}
        recipes = RECIPES._replace(latents=version)
        preprocessed(tmp_path / name, recipes=recipes, settings=decoder)
    status, text = run("diff", str(tmp_path / "a"), str(tmp_path / "b"))
    assert status == 1
    assert (
        "recipe: latents.decoder.av is 17.0.0 in a, 18.1.0 in b (another decoder gives other"
        " pictures and sound: every row is new)"
    ) in text


def test_diff_says_so_when_equal_recipes_gave_other_content(dataset, tmp_path, run, monkeypatch):
    monkeypatch.setitem(WINDOW, "loudness_lufs", -21.0)
    preprocessed(tmp_path / "b", bad=BAD)
    status, text = run("diff", dataset, str(tmp_path / "b"))
    assert status == 1
    assert "1 rows have one id in both and other content: a was made by commit 0123abc" in text
    status, text = run("diff", dataset, dataset)
    assert "one id" not in text


def test_verify_prints_a_line_per_problem_and_fails(dataset, run):
    status, text = run("verify", dataset)
    assert status == 0
    assert "nothing wrong" in text
    (shard,) = names(dataset, "latents")
    ObjectStore(dataset).write(shard, b"spoiled")
    status, text = run("verify", dataset)
    assert status == 1
    assert f"{shard} has 7 bytes instead of" in text
    assert "--repair" in text
    status, values = run("verify", dataset, "--repair", "--json")
    assert status == 1
    assert values["removed"] == [shard]
    preprocessed(dataset, bad=BAD)
    assert run("verify", dataset, "--quick")[0] == 0


def test_gc_lists_what_it_frees(tmp_path, run):
    preprocessed(tmp_path)
    preprocessed(tmp_path, recipes=RECIPES._replace(latents="larger"))
    before = names(tmp_path)
    status, text = run("gc", str(tmp_path), "--dry-run")
    assert status == 0
    assert "would free 2 files" in text
    assert "they hold 3 results" in text
    assert text.endswith("encoded again. --keep-cache keeps them\n")
    assert names(tmp_path) == before
    assert run("gc", str(tmp_path), "--keep-cache", "--json")[1]["freed_files"] == 1
    text = run("gc", str(tmp_path))[1]
    assert "freed 1 files" in text
    assert "they held 3 results" in text
    assert run("gc", str(tmp_path), "--json")[1]["freed_files"] == 0


def test_gc_leaves_a_run_at_work_alone(tmp_path, run):
    preprocessed(tmp_path)
    surveyed(tmp_path, THREE | {"d.mp4": "a cat"})
    status, text = run("gc", str(tmp_path))
    assert status == 1
    assert "expected no run at work" in text
    make_old(tmp_path)
    assert run("gc", str(tmp_path))[0] == 0


@pytest.mark.thorough
def test_datasets_in_object_storage_are_shown_compared_verified_and_cleaned(
    monkeypatch, tmp_path, run
):
    with s3_server() as endpoint:
        credentials(monkeypatch, endpoint)
        place = f"{make_bucket(endpoint, 'sets')}/a"
        preprocessed(place)
        preprocessed(tmp_path)
        assert run("show", place)[0] == 0
        assert run("diff", place, str(tmp_path))[0] == 0
        preprocessed(place, recipes=RECIPES._replace(latents="larger"))
        assert run("diff", place, str(tmp_path), "--json")[1]["changed_parts"] == {"latents": 3}
        assert run("gc", place, "--json")[1]["freed_files"] == 2
        assert run("verify", place)[0] == 0
        (shard,) = names(place, "text")
        ObjectStore(place).write(shard, ObjectStore(place).read(shard)[::-1])
        assert run("verify", place, "--repair", "--json")[1]["removed"] == [shard]
        surveyed(place)
        assert "made anew" in run("show", place)[1]
        assert run("gc", place)[0] == 1


@pytest.mark.parametrize("arguments", [("show",), ("verify",), ("gc", "--force")])
def test_a_place_without_a_dataset_is_one_line(tmp_path, run, arguments):
    status, text = run(*arguments, str(tmp_path))
    assert status == 1
    assert text.startswith("error: expected a dataset in")


def test_looking_at_a_dataset_loads_neither_torch_nor_ray(dataset):
    program = (
        "import sys; from pipelines.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(status or (3 if {'torch', 'ray'} & set(sys.modules) else 0))"
    )
    command = [sys.executable, "-c", program, "dataset", "show", dataset]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
