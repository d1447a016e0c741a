# `make` alone lists the targets. Each installs what it needs in .venv; nothing outside this folder changes.

PYTHON ?= python3# the interpreter that creates .venv, 3.11 or newer; used if there is no .venv yet
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled on first import (--no-compile): most are never imported.
INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --editable

# At most this many processes, one per core: each worker imports the whole stack.
WORKERS ?= 4
PARALLEL := -n auto --maxprocesses=$(WORKERS) --dist loadgroup
# Notebooks and benchmarks take minutes, and are a target of their own.
TESTS := --ignore=tests/showcase

# Another environment, active or half active, must not leak into .venv. Without bytecode, each process that
# the tests start would recompile the libraries, which takes three times as long as importing them.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test showcase cover lint bench notebooks docs figures clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s  %s\n", $$1, $$2}' Makefile

demo: $(VENV)/plot.stamp ## correct a small simulated data set and show what changed
	$(BIN)/mnndask demo

test: $(VENV)/test.stamp ## run the tests and the examples in docstrings
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

showcase: $(VENV)/test.stamp ## run the notebooks, and the benchmarks and the comparison with peers at toy size
	$(BIN)/python -m pytest $(PARALLEL) tests/showcase

cover: $(VENV)/test.stamp ## run the tests and list the lines they do not reach; takes a quarter longer
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS) --cov=mnndask --cov-report=term-missing:skip-covered

lint: $(VENV)/dev.stamp ## check style, format, types, imports and workflow files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(VENV)/test.stamp ## measure time and memory of the correction
	$(BIN)/python -m benchmarks

notebooks: $(VENV)/test.stamp ## run the notebooks again and store their results and pictures in them
	$(BIN)/python notebooks/run.py

docs: $(VENV)/docs.stamp ## build the documentation in docs/_build/html; every warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -b html docs docs/_build/html

figures: $(VENV)/plot.stamp ## draw the figures of the documentation again
	$(BIN)/python docs/draw_figures.py

clean: ## remove everything that the other targets created
	rm -rf $(VENV) .venv-lowest .venv-newest .venv-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mnndask-demo docs/_build docs/tutorials docs/reference/generated
	find $(wildcard mnndask tests benchmarks notebooks) -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: each set of extras includes the one before it, so a larger set's stamp implies the smaller's.

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mnndask needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	  echo "Name another: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; } >&2
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/plot.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and its dependencies into $(VENV)"
	@$(INSTALL) '.[plot]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and its test dependencies into $(VENV)"
	@$(INSTALL) '.[test]'
	@touch $@ $(VENV)/plot.stamp

$(VENV)/docs.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and what builds its documentation into $(VENV)"
	@$(INSTALL) '.[docs]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/made.stamp
	@echo "installing mnndask and its development dependencies into $(VENV)"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/test.stamp $(VENV)/plot.stamp
