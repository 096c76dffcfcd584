# Everything here sets itself up: `make demo` or `make test` on a fresh machine first builds the virtual
# environment $(VENV) from constraints.txt; later calls only check that it is newer than the project files.
#
#   make test VENV=/tmp/v           another environment            make test PYTEST_ARGS="-k sites -x"
#   make demo DEMO_ARGS=--full      options of the command         make demo PIP_ARGS="..."  options of pip
#   make test-ndif NDIF_ARGS="-k heads"

VENV ?= .venv
NDIF_VENV ?= $(VENV)-ndif
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
DEMO_ARGS ?=
ARGS ?=
NDIF_ARGS ?=
FUZZ_ARGS ?=
MUTANTS ?= 20000
THREADS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

PY := $(VENV)/bin/python
NEWEST := $(VENV)-newest
STAMP := $(VENV)/.bkdinterp-installed
NDIF_PY := $(NDIF_VENV)/bin/python
NDIF_STAMP := $(NDIF_VENV)/.bkdinterp-installed
# -qq: errors only.
PIP_OPTIONS := --disable-pip-version-check --no-input -qq
PIP := $(PY) -m pip $(PIP_OPTIONS)
NDIF_PIP := $(NDIF_PY) -m pip $(PIP_OPTIONS)

export OMP_NUM_THREADS ?= $(THREADS)
# Waiting threads spin for a moment only: on shared cores, spinning ones cost several times the work, but falling asleep
# at once costs a decode step a fifth.
export GOMP_SPINCOUNT ?= 30000
export TOKENIZERS_PARALLELISM := false
export MPLBACKEND := Agg
export NO_MKDOCS_2_WARNING := 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo reproduce-bkdattr reproduce-lamparth test test-newest test-ndif fuzz lint format types docs notebooks notebooks-sync notebooks-outputs ci constraints clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build the virtual environment (the other targets do it by themselves)
	@:

demo: $(STAMP) ## find, locate and switch a real backdoor, on the organism and on its twin
	$(PY) -m bkdinterp demo $(DEMO_ARGS)

reproduce-bkdattr: $(STAMP) ## BkdAttr's tables on the shipped organisms; resumable (ARGS="--only smollm2-refusal")
	$(PY) -m papers bkdattr $(ARGS)

reproduce-lamparth: $(STAMP) ## Lamparth & Reuel's tables on the toys; resumable (ARGS="--only I")
	$(PY) -m papers lamparth $(ARGS)

test: export HF_HUB_OFFLINE := 1
# Most models here are tiny, and a second thread gains them little; a second process has work of its own.
test: export OMP_NUM_THREADS := 1
test: $(STAMP) ## all tests: unit, integration, real weights (WORKERS=0 for one process)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

fuzz: export HF_HUB_OFFLINE := 1
fuzz: export BKDINTERP_FUZZ := $(MUTANTS)
fuzz: $(STAMP) ## suspect files of every kind, damaged at random (MUTANTS=20000 FUZZ_ARGS="-k gguf")
	$(PY) -m pytest tests/fuzz -s $(FUZZ_ARGS)

test-ndif: export HF_HUB_OFFLINE := 1
test-ndif: $(NDIF_STAMP) ## remote equals local, on a real NDIF server that lives as long as the tests (Linux)
	$(NDIF_PY) tests/ndif/serve.py -- $(NDIF_PY) -m pytest -c tests/ndif/pytest.ini tests/ndif $(NDIF_ARGS)

test-newest: export HF_HUB_OFFLINE := 1
test-newest: export OMP_NUM_THREADS := 1
test-newest: $(STAMP) ## the engine on the newest transformers that we admit, old names being errors (says so, blocks nothing)
	rm -rf $(NEWEST) && $(PIP) install $(PIP_ARGS) --no-deps --target $(NEWEST) \
	  "$$(sed -nE 's/^ *"(transformers[^"]*)".*/\1/p' pyproject.toml)"
	PYTHONPATH=$(NEWEST) $(PY) -m pytest -q -n $(WORKERS) -o filterwarnings='error:.*is deprecated and will be removed.*:FutureWarning' \
	  tests/integration/test_engine_plan.py tests/integration/test_engine_generate.py tests/integration/test_gradients.py

lint: $(STAMP) ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP) ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP) ## pyright
	$(PY) -m pyright --pythonpath $(PY)

# Not --quiet: it silences the counter of warnings, too, and then --strict has nothing to fail on.
docs: $(STAMP) ## every public name has a page, and the site builds without a warning
	$(PY) docs/check_api.py
	$(PY) -m mkdocs build --strict

notebooks: export BKDINTERP_SMALL := 1
notebooks: $(STAMP) ## execute the tutorials at small settings, two at a time
	$(PY) tutorials/run.py -j 2

notebooks-sync: $(STAMP) ## rewrite tutorials/*.ipynb from their .py twins; outputs of other code go
	$(PY) tutorials/run.py --sync

notebooks-outputs: $(STAMP) ## execute the tutorials and store their outputs (ARGS=01_probe for one)
	$(PY) tutorials/run.py --store $(ARGS)

ci: ## what CI runs
	bash .ci/run

constraints: ## rewrite constraints.txt from the environment as it is now
	@{ sed -n '/^#/p' constraints.txt; \
	   $(PIP) freeze --exclude-editable | sed -E 's/\+[A-Za-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.tmp
	@mv constraints.tmp constraints.txt

clean: ## remove what was built, but not the virtual environment
	rm -rf build dist site .pytest_cache .ruff_cache

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "bkdinterp needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || { rm -rf $(1); \
	  echo "$(PYTHON) could not make a virtual environment (on Debian: install python3-venv)." >&2; exit 1; }
	@echo "Installing into $(1): some minutes, once."
endef

# torch goes first and by its exact version: a range would be free to take a newer build, with its CUDA libraries.
# PIP_CONSTRAINT instead of -c, because it also reaches the isolated build of this package.
$(STAMP): pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	@PIP_CONSTRAINT=constraints.txt $(PIP) install $(PIP_ARGS) "$$(grep '^torch==' constraints.txt)"
	@PIP_CONSTRAINT=constraints.txt $(PIP) install $(PIP_ARGS) -e '.[dev]'
	@touch $@

# The list is complete, so nothing is resolved; torch alone brings what its build needs. Uncompiled: most of it is never
# imported.
$(NDIF_STAMP): tests/ndif/constraints.txt
	$(call make_venv,$(NDIF_VENV))
	@PIP_CONSTRAINT=$< $(NDIF_PIP) install $(PIP_ARGS) --no-compile "$$(grep '^torch==' $<)"
	@$(NDIF_PIP) install $(PIP_ARGS) --no-compile --no-deps --ignore-requires-python -r $<
	@touch $@
