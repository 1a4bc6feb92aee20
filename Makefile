# make help      prints what there is

PYTHON ?= python3
VENV ?= .venv
# TORCH=cpu takes PyTorch's CPU build from its own index; default takes what the configured index offers.
TORCH ?= default
# Test processes; each works with one torch thread.
WORKERS ?= auto

BIN := $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist=worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
SOURCES := mtrl agents envs benchmarks tests docs train.py

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train test test-all test-faults wheel lint docs bench clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) (or cpu) WORKERS=$(WORKERS)"

setup: $(VENV)/.installed ## create the virtual environment and install the toolkit

setup-dev: $(VENV)/.installed-dev ## the same, with everything that tests and lint need

train: setup ## train the quickstart; ARGS='env=mt10 seed=3' trains something else
	$(BIN)/python train.py $(ARGS)

test: setup-dev ## run every kind of test, with some members of the large grids
	$(PYTEST) $(ARGS)

test-all: setup-dev ## the same with all members of the grids, and more random examples
	$(PYTEST) -m "not faults" --hypothesis-profile=all $(ARGS)

test-faults: setup-dev ## run the long tests of what can go wrong: processes killed, disks filled, files broken
	$(PYTEST) -m faults $(ARGS)

wheel: setup-dev ## build dist/*.whl, install it away from this checkout, and train the toy from it
	rm -rf build dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build
	$(BIN)/python -m pytest tests/mtrl/test_mtrl_wheel.py $(ARGS)

lint: setup-dev ## check style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: setup ## write the tables and the pages of methods from the registries
	$(BIN)/python -m docs.tables
	$(BIN)/python -m docs.methods.generate
	$(BIN)/python -m docs.networks.generate

bench: setup ## measure what docs/performance.md states
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 14); sys.exit(None if ok else \
	    f"Python 3.10 to 3.13 is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Torch comes first and from the constraints, so that no other package can pull a different build of it.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH_INDEX) -c constraints.txt torch
	$(PIP) $(TORCH_INDEX) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) $(TORCH_INDEX) -c constraints.txt -e '.[dev]'
	@touch $@
