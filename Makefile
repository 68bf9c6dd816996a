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

.PHONY: help demo test test-quick test-slow test-preprocess test-gpu check bench tiny-weights clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.$$()A-Z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

# Two processes, a file at a time each: half of the time a test waits, for Ray or for a server. The
# files come in their order: those with few and long tests would be last otherwise.
test: $(STAMP) ## every test that needs no GPU, those with Ray and with the server included
	$(BIN)/python -m pytest -m "not slow and not preprocess and not gpu" \
		--numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-quick: $(STAMP) ## the tests without Ray, the server or diffusers
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP) ## the long ones: promised figures, a stream of ten minutes; wants a quiet machine
	$(BIN)/python -m pytest -m slow $(ARGS)

test-preprocess: $(STAMP) ## all that is promised of preprocessing: kills, 340 files, S3, throughput
	$(BIN)/python -m pytest -m preprocess $(ARGS)

test-gpu: $(STAMP) ## preprocessing by actors that share a GPU; about three minutes
	$(BIN)/python -m pytest -m gpu $(ARGS)

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

tiny-weights: $(STAMP) ## train the weights that ship with the package anew (about an hour)
	$(BIN)/omniforcing tiny-weights --run out/tiny-weights $(ARGS)

clean: ## remove what runs and checks left; the virtual environment stays
	rm -rf out mlruns mlartifacts .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find $(PACKAGES) tests -type d -name __pycache__ -prune -exec rm -rf {} +
