# Two commands do all their own set-up with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test faults lint format bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Mailecho needs Python 3.11, 3.12 or 3.13; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV): about 300 MB, once"
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## the whole pipeline on this machine, fed with sample traffic
	$(BIN)/mailecho up --data-dir .demo --demo

test: $(STAMP) ## all tests, on a real Kafka and a real ClickHouse engine
	$(BIN)/pytest

faults: $(STAMP) ## the long fault runs: 100 kills, each row of the fault matrix five times, 20,000 interleavings
	INTERLEAVINGS=20000 $(BIN)/pytest -m faults --timeout 7200 --faults-full -s

lint: $(STAMP) ## ruff, mypy strict, the layers of the core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## write the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## the benchmarks, each against a baseline in the same run
	$(BIN)/mailecho bench --help

lock: ## resolve again what requirements.lock pins (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header \
		pyproject.toml -o requirements.lock

clean: ## remove the environment, the demo's data and all caches
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
