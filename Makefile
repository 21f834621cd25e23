# Each target is enough by itself on a machine with Python and GNU make: it makes the virtual environment on its
# first use and again when pyproject.toml or the constraints change.

PYTHON ?= python3
EXTRA ?= cpu
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=

HOST := fastreid==1.4.0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: help demo test lint format venv matrix constraints wheel clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: PYTHON=$(PYTHON) (3.9 or newer)  VENV=$(VENV)  EXTRA=$(EXTRA) (cpu or gpu: which faiss)"
	@echo "           ARGS=... (passed on to the command)"

demo: $(STAMP)  ## makes images of people, trains CMBN on them, evaluates, and draws the results
	$(BIN)/fastreid-parts demo $(ARGS)

test: lint  ## linter, type checker and the default tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## ruff's linter and formatter and mypy; changes no file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## lets ruff mend and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)  ## the virtual environment alone

matrix:  ## installs and smoke-tests on several Pythons and torches, each in a fresh environment
	$(PYTHON) tools/matrix.py $(ARGS)

constraints: $(STAMP)  ## brings constraints.txt in line with pyproject.toml; ARGS=--upgrade moves the versions
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.9 --extra cpu --extra gpu --extra dev \
		--no-annotate --custom-compile-command "make constraints" $(ARGS) -o constraints.txt pyproject.toml

wheel: $(STAMP)  ## source archive and wheel, in dist/
	$(BIN)/python -m hatchling build

clean:  ## removes what was built and cached; the environment, datasets and logs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The host comes with --no-deps, because its metadata asks for torch 1.13.1 exactly. faiss-cpu and faiss-gpu are
# files of the same name, so the one that was chosen before has to go first.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 9) else \
		"fastreid_parts needs Python 3.9 or newer and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@$(PIP) uninstall --quiet --quiet --yes faiss-cpu faiss-gpu faiss-gpu-cu12
	@echo "Installing into $(VENV), torch included: a few GB, a few minutes, once."
	$(PIP) install --constraint $(CONSTRAINTS) --editable ".[$(EXTRA),dev]"
	$(PIP) install --no-deps $(HOST)
	@touch $@
