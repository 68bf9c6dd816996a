"""A verdict that one can rent by: what fits, what does not and why, and what would."""

import json
import subprocess
import sys

import pytest

from infra.presets import load_preset, with_changes
from pipelines.planning.training_plan import training_plan

# 80 GB, as it is sold, less what the CUDA context and the allocator's gaps take.
CARD_GIB = 80e9 / 2**30 - 4
pytestmark = pytest.mark.timeout(600)
RUN = [sys.executable, "-m", "pipelines.cli", "plan", "distill"]


@pytest.mark.thorough
def test_the_papers_run_fits_thirty_two_cards_of_80_gb_in_every_phase():
    planned = training_plan(load_preset("paper"), CARD_GIB)
    assert planned["fits"] is True
    assert list(planned["stages"]) == ["stage_1", "stage_2", "stage_3"]
    for stage in planned["stages"].values():
        assert stage["fits"] is True
        assert max(stage["phases"].values()) == stage["peak_gib"] < CARD_GIB
        assert min(stage["phases"].values()) > 0
        assert (stage["reason"], stage["knobs"]) == ("", [])


@pytest.mark.thorough
def test_the_papers_run_does_not_fit_eight_cards_and_the_plan_says_why_and_with_what_it_does():
    paper = load_preset("paper", ["cluster.distillation_worker.replicas=8"])
    planned = training_plan(paper, CARD_GIB)
    assert planned["fits"] is False
    for name in ("stage_1", "stage_3"):
        stage = planned["stages"][name]
        assert not stage["fits"]
        # Two roles that learn, their teacher and the average are more than the card, by themselves.
        assert stage["state_gib"] > CARD_GIB
        assert "moments" in stage["reason"] and "masters" in stage["reason"]
        changed = training_plan(with_changes(paper, stage["knobs"]), CARD_GIB)
        assert changed["stages"][name]["fits"]
        assert any("replicas" in knob for knob in stage["knobs"])


def test_what_stays_of_the_papers_roles_alone_is_more_than_eight_cards_and_half_of_thirty_two():
    few, many = (
        training_plan(load_preset("paper", [f"cluster.distillation_worker.replicas={ranks}"]))
        for ranks in (8, 32)
    )
    for name in ("stage_1", "stage_3"):
        assert few["stages"][name]["state_gib"] > CARD_GIB > 2 * many["stages"][name]["state_gib"]


@pytest.mark.slow
def test_the_command_ends_with_1_for_the_papers_run_on_eight_cards_and_names_the_knob():
    on = ["--preset", "paper", "--set", "cluster.distillation_worker.replicas=8"]
    done = subprocess.run(
        [*RUN, *on, "--gpu-gib", f"{CARD_GIB:g}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "stage_1: does not fit" in said and "stage_3: does not fit" in said
    assert said.count("fits with --set cluster.distillation_worker.replicas=16") >= 2


@pytest.mark.thorough
def test_a_teacher_elsewhere_is_judged_on_its_own_servers():
    away = load_preset("paper", ["cluster.placement.teacher=remote"])
    planned = training_plan(away, CARD_GIB)
    assert planned["fits"] is True
    server = planned["stages"]["stage_1"]["teacher_server"]
    assert (server["servers"], server["gpus"]) == (4, 4)
    # 18.9 billion weights in two bytes, and a guided prediction.
    assert 35.1 < server["phases"]["construction"] < server["phases"]["answer"] < CARD_GIB
    assert "teacher_server" not in planned["stages"]["stage_2"]
    # Where there is no room for a whole one, the training that asks it does not fit either.
    least = max(stage["peak_gib"] for stage in planned["stages"].values())
    refused = training_plan(away, (least + server["peak_gib"]) / 2)
    assert refused["fits"] is False
    assert all(stage["fits"] for stage in refused["stages"].values())
    assert not refused["stages"]["stage_1"]["teacher_server"]["fits"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trajectories_are_judged_where_a_stage_reads_them():
    planned = training_plan(load_preset("tiny", ["stages.trajectories.batch=8"]), 1000)
    whole = planned["trajectories"]["peak_gib"]
    refused = training_plan(load_preset("tiny", ["stages.trajectories.batch=8"]), 0.9 * whole)
    assert refused["trajectories"]["fits"] is False
    assert refused["trajectories"]["knobs"] == ["stages.trajectories.batch=1"]
    without = training_plan(load_preset("tiny", ["stages.stage_2.optimiser.steps=0"]))
    assert without["trajectories"] is None
    parts = [*planned["stages"].values(), planned["trajectories"]]
    assert planned["totals"]["money"] == sum(part["costs"]["money"] for part in parts)


@pytest.mark.thorough
def test_a_stage_that_does_not_fit_is_told_the_knob_that_helps():
    whole = load_preset("tiny", ["stages.teacher.optimiser.micro_batch=16"])
    stage = training_plan(whole, 1000)["stages"]["teacher"]
    recomputed = with_changes(whole, ["stages.teacher.optimiser.recomputes=true"])
    less = training_plan(recomputed, 1000)["stages"]["teacher"]
    between = (stage["peak_gib"] + less["peak_gib"]) / 2
    refused = training_plan(whole, between)["stages"]["teacher"]
    assert not refused["fits"]
    assert refused["knobs"] == ["stages.teacher.optimiser.recomputes=true"]


def test_a_stage_without_steps_is_not_planned():
    planned = training_plan(load_preset("paper"))
    assert list(planned["stages"]) == ["stage_1", "stage_2", "stage_3"]
    assert planned["fits"] is None
    assert "phases" not in planned["stages"]["stage_1"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("gib", "status", "fits"),
    [("64", 0, True), pytest.param("0.001", 1, False, marks=pytest.mark.slow)],
)
def test_the_command_ends_with_1_where_training_does_not_fit(gib, status, fits):
    done = subprocess.run([*RUN, "--gpu-gib", gib, "--json"], capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    planned = json.loads(done.stdout)
    assert planned["fits"] is fits
    for stage in planned["stages"].values():
        assert stage["fits"] is fits
        assert stage["peak_gib"] == max(stage["phases"].values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_verdict_is_printed_with_its_phases_and_its_reason():
    done = subprocess.run([*RUN, "--gpu-gib", "0.001"], capture_output=True, text=True, check=False)
    assert "does not fit" in done.stdout
    assert "construction" in done.stdout
    assert "GiB of 0.001" in done.stdout


def test_a_memory_is_asked_for_training_alone():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "plan", "serve", "--gpu-gib", "80"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "plan distill" in done.stderr
