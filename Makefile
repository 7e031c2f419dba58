# Every target sets up .venv by itself; repeated calls cost nothing until requirements.lock or pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= local
CORES ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart run resume test test-cluster lint format schema coverage deviations clean clean-all

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenbounds needs Python 3.11 or newer; say which with make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: $(VENV)/.ready  ## certified bounds for language models trained on the spot, on real text, without a download
	@$(BIN)/python workflow_scripts/launch.py --profile profiles/quickstart

run: $(VENV)/.ready  ## the run of a profile: make run PROFILE=local
	@$(BIN)/python workflow_scripts/launch.py --profile profiles/$(PROFILE)

resume: run  ## after anything went wrong: cancels orphaned cluster jobs, removes the lock, goes on (make run does the same)

test: $(VENV)/.ready  ## all tests but those on a cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

test-cluster: $(VENV)/.ready  ## tests on a Slurm that is started for them: root, with the Debian packages slurm-wlm and munge
	TOKENBOUNDS_TEST_CLUSTER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/cluster

lint: $(VENV)/.ready  ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

format: $(VENV)/.ready  ## put all code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

schema: $(VENV)/.ready  ## write docs/config.schema.json from tokenbounds/config.py
	$(BIN)/python -m tokenbounds.config

coverage: $(VENV)/.ready  ## simulations that try to break the bounds: writes docs/validity.md
	$(BIN)/python workflow_scripts/coverage.py

deviations: $(VENV)/.ready  ## what each departure from the published code changes on the quickstart: writes docs/deviations/effects.csv
	$(BIN)/python workflow_scripts/deviations.py

clean:  ## remove the quickstart's results (not .venv, not downloads)
	rm -rf results/quickstart

clean-all: clean  ## also .venv and Snakemake's own records
	rm -rf $(VENV) .snakemake *.egg-info
