.DEFAULT_GOAL := help
.PHONY: help setup check test test-full test-gpu contract demo bench lock

BIN := .venv/bin
BENCH ?= launch
TESTS ?=
LANES ?= 4
WORKERS = -n $(LANES)

help:  ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with the locked packages and Muster itself; needs Python >= 3.11 (PYTHON=… to choose one)
	@PYTHON="$(PYTHON)" scripts/setup.sh

check: setup  ## lint, format, types, which module may import which; seconds
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_laws.py

test: setup  ## every test that needs no GPU (TESTS=… to choose some, LANES=0 for one process); with CI=true a skip is a failure
	@scripts/system.sh
	$(BIN)/python -m pytest $(WORKERS) --durations=20 $(TESTS)

test-full: setup  ## make test with every example on every target and every volume whole, as before a release
	@scripts/system.sh
	$(BIN)/python -m pytest --full $(WORKERS) --durations=20 $(TESTS)

test-gpu: setup  ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu $(TESTS)

contract: setup  ## the contract suite on every target, shown as a table and written to benchmarks/results/contract.json
	@scripts/system.sh
	$(BIN)/python -m pytest $(WORKERS) tests/contract/suite --contract-results=benchmarks/results/contract.json $(TESTS)

demo: setup  ## train a model on two nodes of this machine through Airflow and register it (UI=1 keeps Airflow's UI up)
	@$(BIN)/python scripts/demo.py $(if $(filter-out 0,$(UI)),--ui)

bench: setup  ## measure Muster and its peers side by side (BENCH=launch)
	@$(BIN)/python -m benchmarks $(BENCH)
	@$(BIN)/python scripts/benchmark_tables.py $(BENCH)

lock: setup  ## write requirements.lock anew from pyproject.toml
	scripts/lock.sh
