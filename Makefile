# `make demo` and `make test` each set up what they need. Everything else is below them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv from the path, else one of our own.
UV := $(or $(shell command -v uv),build/uv/bin/uv)
CONSTRAINTS := deploy/constraints.txt
GO_PLUGINS := build/go/bin/protoc-gen-go build/go/bin/protoc-gen-go-grpc
TS_PLUGIN := clients/typescript/node_modules/.bin/protoc-gen-es

.PHONY: help demo test test-slow test-all bench bench-trainer bench-sampler bench-docs lint types proto setup clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## start the suite and watch a model learn arithmetic
	@$(BIN)/tinsmith demo $(DEMO)

test: $(VENV)/.ready $(VENV)/.proto ## the tests, without the slow ones
	$(BIN)/pytest -q -m "not slow and not chaos" $(PYTEST)

test-slow: $(VENV)/.ready $(VENV)/.proto ## the tests that take long or kill processes
	$(BIN)/pytest -q -m "slow or chaos" $(PYTEST)

test-all: test test-slow ## every test

bench: $(VENV)/.ready ## what the suite costs, beside the same work without it
	$(BIN)/python -m tests.benchmarks $(BENCH)

bench-trainer: $(VENV)/.ready ## the trainer beside PEFT
	$(BIN)/python -m tests.benchmarks trainer

bench-sampler: $(VENV)/.ready ## the sampler beside generate of transformers
	$(BIN)/python -m tests.benchmarks sampler

bench-docs: $(VENV)/.ready ## put the tables of the last runs into docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks --write docs/benchmarks.md

lint: $(VENV)/.ready ## ruff and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path proto/tinsmith

types: $(VENV)/.ready ## mypy, strict
	$(BIN)/mypy -p tinsmith_server
	$(BIN)/mypy clients/python/tinsmith

proto: $(VENV)/.proto $(GO_PLUGINS) $(TS_PLUGIN) ## write the stubs of every client anew; needs go and npm
	PATH="$(CURDIR)/$(VENV)-proto/bin:$(CURDIR)/build/go/bin:$$PATH" $(VENV)-proto/bin/python proto/generate.py

$(GO_PLUGINS):
	@command -v go >/dev/null || { echo "the Go stubs need go, 1.24 or newer"; exit 1; }
	GOBIN="$(CURDIR)/build/go/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN="$(CURDIR)/build/go/bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

$(TS_PLUGIN): clients/typescript/package-lock.json
	@command -v npm >/dev/null || { echo "the TypeScript stubs need node and npm, 20 or newer"; exit 1; }
	npm ci --prefix clients/typescript --silent
	@touch $@

setup: $(VENV)/.ready $(VENV)/.proto ## both environments, nothing more

$(VENV)/.ready: pyproject.toml clients/python/pyproject.toml $(CONSTRAINTS) | $(UV)
	@echo "setting up $(VENV) (a few minutes when nothing is cached: torch alone is some GB)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --constraint $(CONSTRAINTS) \
		--editable clients/python --editable '.[all]' --group dev
	@touch $@

$(VENV)/.proto: pyproject.toml $(VENV)/.ready | $(UV)
	@test -x $(VENV)-proto/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)-proto
	@VIRTUAL_ENV=$(VENV)-proto $(UV) pip install --quiet --group proto
	@touch $@

build/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv build/uv || { echo "no venv module: apt-get install python3-venv, or install uv"; exit 1; }
	@build/uv/bin/pip install --quiet uv

clean: ## remove what was built, not the cached model (~/.tinsmith/models)
	rm -rf build $(VENV) $(VENV)-proto clients/typescript/node_modules clients/typescript/build
