# `make` alone lists the targets. Each makes what it needs in .venv: nothing outside this folder is changed.

PYTHON ?= python3# the interpreter .venv is made from, 3.11 or newer; used when there is no .venv yet
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when first imported: most never are.
INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --editable

# One process a core, but no more than this: each worker imports the whole stack.
WORKERS ?= 4
PARALLEL := -n auto --maxprocesses=$(WORKERS) --dist loadgroup

# Another environment, active or half active, must not leak into .venv; without bytecode, each process that the
# tests start would compile the libraries anew, which takes three times as long as importing them.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test cover lint bench notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s  %s\n", $$1, $$2}' Makefile

demo: $(VENV)/plot.stamp ## correct a small simulated data set, and show what changed
	$(BIN)/mnndask demo

test: $(VENV)/test.stamp ## run the tests and the examples in docstrings
	$(BIN)/python -m pytest $(PARALLEL)

cover: $(VENV)/test.stamp ## the same, and tell which lines they do not reach; takes a quarter longer
	$(BIN)/python -m pytest $(PARALLEL) --cov=mnndask --cov-report=term-missing:skip-covered

lint: $(VENV)/dev.stamp ## check style, format, types and workflow files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(VENV)/test.stamp ## time the correction and measure its memory
	$(BIN)/python -m benchmarks

notebooks: $(VENV)/test.stamp ## run the notebooks again, and keep their results and pictures in them
	$(BIN)/python notebooks/run.py

clean: ## remove all that the other targets made
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mnndask-demo
	find $(wildcard mnndask tests benchmarks notebooks) -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: each set of extras holds the one before it, so that the larger vouches for the smaller.

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mnndask needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	  echo "Name another: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; } >&2
	@echo "making $(VENV) from $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/plot.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and what it needs into $(VENV)"
	@$(INSTALL) '.[plot]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and what its tests need into $(VENV)"
	@$(INSTALL) '.[test]'
	@touch $@ $(VENV)/plot.stamp

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and what its checks need into $(VENV)"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/test.stamp $(VENV)/plot.stamp
