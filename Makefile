# Each target is enough by itself on a machine with Python and GNU make: it makes the virtual environment on its
# first use and again when pyproject.toml or the constraints change.

PYTHON ?= python3
EXTRA ?= cpu
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
JOBS ?= 2

HOST := fastreid==1.4.0
COMMA := ,
# milvus-lite brings faiss-cpu, which fills the same package as faiss-gpu
EXTRAS ?= $(EXTRA),dev$(if $(filter cpu,$(EXTRA)),$(COMMA)milvus)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed-$(EXTRA)
DOCS_STAMP := $(STAMP)-docs

.PHONY: help demo evidence test lint format docs figures venv trackers matrix constraints wheel clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: PYTHON=$(PYTHON) (3.10 to 3.14)  VENV=$(VENV)  EXTRA=$(EXTRA) (cpu or gpu: which faiss)"
	@echo "           ARGS=... (passed on to the command)  JOBS=$(JOBS) (processes of make test)"

demo: $(STAMP)  ## makes images of people, trains CMBN on them, evaluates, and draws the results
	$(BIN)/fastreid-parts demo $(ARGS)

evidence: $(STAMP)  ## measures the papers' claims on drawn people: hours, to be stopped and gone on with
	$(BIN)/python tools/evidence.py run --jobs $(JOBS) $(ARGS)

test: lint $(DOCS_STAMP)  ## linter, type checker and the default tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)  ## ruff's linter and formatter, mypy, and the order of the modules; changes no file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/layers.py

format: $(STAMP)  ## lets ruff correct and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_STAMP)  ## the site, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --builder html -W --keep-going --doctree-dir docs/_build/doctrees $(ARGS) docs docs/_build/html

venv: $(STAMP)  ## the virtual environment alone

trackers: $(STAMP)  ## environments of other projects' trackers, for `-m trackers`; ARGS=boxmot: that one alone
	$(PIP) install --quiet uv
	$(BIN)/python tools/trackers.py $(ARGS)

matrix:  ## installs and smoke-tests on several Pythons and torches, each in a fresh environment
	$(PYTHON) tools/matrix.py $(ARGS)

constraints: $(STAMP)  ## brings constraints.txt in line with pyproject.toml; ARGS=--upgrade moves the versions
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra cpu --extra gpu --extra dev --extra docs \
		--extra export --extra milvus --no-annotate --custom-compile-command "make constraints" $(ARGS) -o constraints.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --no-build --python-version 3.14 --python-platform linux --extra cpu --extra dev --extra docs \
		--extra export --extra milvus --constraints constraints.txt pyproject.toml > /dev/null

figures: $(STAMP)  ## draws docs/figures anew
	$(BIN)/python tools/figures.py
	$(BIN)/python -m tools.pages.claims
	$(BIN)/python -m tools.pages.curves

wheel: $(STAMP)  ## source archive and wheel, in dist/
	$(BIN)/python -m hatchling build

clean:  ## removes what was built and cached; environments, datasets and logs stay
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache
	find fastreid_parts tests tools -name __pycache__ -prune -exec rm -rf {} +

# Compiling all of torch takes a minute; Python compiles what is imported, when it is.
# The host comes with --no-deps, because its metadata asks for torch 1.13.1 exactly. faiss-cpu and faiss-gpu are
# files of the same name, so the one that was chosen before has to go first.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 10) else \
		"fastreid_parts runs on Python 3.10 to 3.14, and $(PYTHON) is %d.%d: name another, make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@$(PIP) uninstall --quiet --quiet --yes faiss-cpu faiss-gpu
	@echo "Installing into $(VENV), torch included: a few GB, a few minutes, once."
	$(PIP) install --no-compile --constraint $(CONSTRAINTS) --editable ".[$(EXTRAS)]"
	$(PIP) install --no-compile --no-deps $(HOST)
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(PIP) install --quiet --no-compile --constraint $(CONSTRAINTS) --editable ".[$(EXTRA),docs]"
	@touch $@
