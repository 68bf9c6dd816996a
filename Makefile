# Everything a newcomer or CI needs; `make help` lists it. Works without root.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PACKAGES := omniforcing_model infra actors pipelines serve
# The first interpreter that runs and is 3.11 or 3.12; `make PYTHON=/path/to/python3.11` overrides.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3 python; do \
	if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	>/dev/null 2>&1; then echo $$candidate; break; fi; done)

# make demo MEDIA="a.mp4 b.mp4" starts from your clips; ARGS goes to the command as it is.
MEDIA ?=
ARGS ?=

.PHONY: help demo test test-quick test-long $(LONG) test-quiet test-gpu mutants check bench bench-gpu tiny-weights clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9.$$()A-Z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(STAMP) ## a virtual environment with everything; a second time it is quick

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "expected Python 3.11 or 3.12, found none; install one or run make PYTHON=/path/to/it" >&2; \
		exit 2; fi
	@echo "installing into $(VENV)/: some minutes and about 3 GB the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## the whole job on preset tiny: clips, stages, a stream; leaves out/demo/
	$(BIN)/omniforcing demo --out out/demo $(foreach file,$(MEDIA),'$(file)') $(ARGS)

PYTEST := $(BIN)/python -m pytest
# Two processes, a file at a time each: half of the time a test waits, for Ray or for a server. The
# files come in their order: those with few and long tests would be last otherwise.
TWO_FILES := --numprocesses 2 --dist loadfile --no-loadscope-reorder
LONG := test-slow test-training test-parity test-preprocess test-corpus test-s3 \
	test-kills-driver test-kills-actor test-kills-node test-two-runs
# What judges how clips are decoded and which are refused.
CLIP_TESTS := $(wildcard tests/end_to_end/test_clip_*.py) tests/unit/actors/clips \
	tests/end_to_end/test_preprocess_kinds.py tests/end_to_end/test_preprocess_zoo.py
# Several ranks of every stage, peaks of gigabytes, 200 steps in each precision.
TRAINING_TESTS := $(addprefix tests/equivalence/,test_bfloat16_training.py test_gradients_equal_plain_loop.py \
	test_plan_equals_measured.py test_planned_wire_is_counted.py test_training_is_spread.py) \
	tests/unit/pipelines/planning/test_training_plan.py

test: $(STAMP) ## every test that needs no GPU, no quiet machine and no half hour: 25 to 30 minutes on two cores, 15 are the aim
	$(PYTEST) -m "not slow and not kills and not corpus and not s3 and not quiet and not gpu" \
		$(TWO_FILES) $(ARGS)

test-quick: $(STAMP) ## the tests without Ray, the server, diffusers or training: 3 minutes
	$(PYTEST) $(TWO_FILES) $(ARGS)

test-long: $(LONG) ## every long suite below, one after the other

test-slow: $(STAMP) ## a demo, a stream of ten minutes, killed trainings and servers: 10 minutes
	$(PYTEST) -m "slow and not parity" $(addprefix --ignore=,$(TRAINING_TESTS)) $(ARGS)

test-training: $(STAMP) ## training spread over ranks, in bfloat16, and beside its plan: an hour and a quarter
	$(PYTEST) -m slow $(TRAINING_TESTS) $(ARGS)

test-parity: $(STAMP) ## ours = diffusers' on small random weights, the slow ones too: 10 minutes
	$(PYTEST) -m "parity and not corpus" $(TWO_FILES) $(ARGS)

test-preprocess: $(STAMP) ## clips of every kind, damaged and broken, of the wheel's ffmpeg and PATH's: 20 minutes
	$(PYTEST) -m "" $(CLIP_TESTS) $(TWO_FILES) $(ARGS)

test-corpus: $(STAMP) ## preprocessing by actors that share a GPU, with LTX-2's models: 5 minutes
	$(PYTEST) -m corpus $(addprefix --ignore=,$(CLIP_TESTS)) $(ARGS)

test-s3: $(STAMP) ## S3: keys that end in mid-run, a server that says nothing: 3 minutes
	$(PYTEST) -m s3 $(ARGS)

test-kills-driver test-kills-actor test-kills-node: $(STAMP)
test-kills-driver: ## preprocessing, its driver killed at ten moments: 10 minutes
	$(PYTEST) tests/end_to_end/test_preprocess_killed.py -m ray -k "killed_driver" $(ARGS)

test-kills-actor: ## the same with an actor: 10 minutes
	$(PYTEST) tests/end_to_end/test_preprocess_killed.py -m ray -k "killed_actor or killed_run" $(ARGS)

test-kills-node: ## the same with a node of two: 15 minutes
	$(PYTEST) tests/end_to_end/test_preprocess_killed.py -m ray -k "killed_worker_node" $(ARGS)

test-two-runs: $(STAMP) ## two runs into one output, killed, or stopped and woken: 15 minutes
	$(PYTEST) tests/end_to_end/test_two_*_runs.py -m ray $(ARGS)

test-quiet: $(STAMP) ## figures we promise; fails on a machine that does anything else: 20 minutes
	$(PYTEST) -m quiet $(ARGS)

test-gpu: $(STAMP) ## preprocessing by actors that share a GPU: 3 minutes
	$(PYTEST) -m gpu $(ARGS)

mutants: $(STAMP) ## 80 small changes of the code: does a test notice? an hour
	$(BIN)/python -m tests.mutation.mutants $(ARGS)

check: $(STAMP) ## format, lint, types and architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/architecture

bench: $(STAMP) ## time per pass and block, against baselines and the machine's own rate
	$(BIN)/omniforcing bench model --config small --seconds 10 --dtype both \
		--out out/benchmarks/model-small.json $(ARGS)
	$(BIN)/omniforcing bench stream --config tiny --seconds 12 \
		--out out/benchmarks/stream-tiny.json $(ARGS)

# The shape of the paper where there is a GPU, else one that two cores can stream.
BENCH_PRESET ?= $(shell if nvidia-smi -L >/dev/null 2>&1; then echo paper; else echo small; fi)

bench-gpu: $(STAMP) ## every benchmark of the engine on a GPU, within 6 minutes, with a page; out/bench-gpu/
	$(BIN)/omniforcing bench all --preset $(BENCH_PRESET) --out out/bench-gpu $(ARGS)

tiny-weights: $(STAMP) ## train the weights that ship with the package anew (about an hour)
	$(BIN)/omniforcing tiny-weights --run out/tiny-weights $(ARGS)

clean: ## remove what runs and checks left; the virtual environment stays
	rm -rf out mlruns mlartifacts .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find $(PACKAGES) tests -type d -name __pycache__ -prune -exec rm -rf {} +
