# Everything that is done to this tree. `make` alone lists it.
#
# Only make and Python 3.11 or later are needed; all else comes from the package index, by the lock.

PYTHON ?= python3
# Options of `run` and `bench`, for example: make run ARGS="--once --json"
ARGS ?=
# Options of `test` and `fault`, for example: make test PYTEST_ARGS="tests/unit -k money"
PYTEST_ARGS ?=
# Processes that tests are spread over; each has servers of its own. One more than processors, since tests also wait.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 2) + 1)')

PARTS := libs/protos libs/runtime libs/client libs/dev \
	services/ingest services/identity services/aggregate services/publisher
BIN := .venv/bin
INSTALLED := .venv/.installed
CODEGEN := .venv-codegen/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Start here

.PHONY: help
help: ## List what make can do
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(INSTALLED) ## Make the environment in .venv from the lock (the other targets do it by themselves)
	@echo ".venv is ready"

.PHONY: run
run: $(INSTALLED) ## Start the whole mesh on this machine and show it on real data; options in ARGS
	@exec $(BIN)/meterline dev $(ARGS)

##@ Prove

.PHONY: test
test: $(INSTALLED) ## Run the tests, real Postgres and NATS included; options in PYTEST_ARGS
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: fault
fault: $(INSTALLED) ## Run the fault tests in their long form, with planted bugs (a quarter of an hour): kills, lost answers, wiped storage
	METERLINE_FAULTS=long $(BIN)/python -m pytest tests/fault -m fault -p no:xdist -vv $(PYTEST_ARGS)

.PHONY: bench
bench: $(INSTALLED) ## Measure the data path against its references; options in ARGS
	@exec $(BIN)/python -m tests.bench $(ARGS)

.PHONY: requirements
requirements: $(INSTALLED) ## Show which requirement is proven by which tests
	@$(BIN)/python tools/requirement_coverage.py

##@ Check

.PHONY: check
check: lint types imports protos-check migrations-check ## Run all checks below; they change nothing

.PHONY: lint
lint: $(INSTALLED) ## Style and common mistakes (ruff)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(INSTALLED) ## Types, strictly, tests included (mypy)
	$(BIN)/mypy libs services tests tools

.PHONY: imports
imports: $(INSTALLED) ## Who may import whom (import-linter, .importlinter)
	$(BIN)/lint-imports --no-logo

.PHONY: protos-check
protos-check: $(INSTALLED) $(CODEGEN) ## Protos: style, format, nothing broken for callers, stubs current (buf)
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python tools/check_breaking.py
	PATH="$(CURDIR)/.venv-codegen/bin:$$PATH" .venv-codegen/bin/python tools/generate_protos.py --check
	$(BIN)/python tools/load_stubs.py
	.venv-codegen/bin/python tools/load_stubs.py

.PHONY: migrations-check
migrations-check: $(INSTALLED) ## Migrations: nothing that locks or breaks a running version (squawk, .squawk.toml)
	$(BIN)/squawk $$(find libs services -path '*/migrations/*.sql' | sort)

##@ Write

.PHONY: format
format: $(INSTALLED) ## Format code and protos, and apply automatic fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

.PHONY: protos
protos: $(CODEGEN) ## Generate the stubs in libs/protos from protos/
	PATH="$(CURDIR)/.venv-codegen/bin:$$PATH" .venv-codegen/bin/python tools/generate_protos.py

.PHONY: lock
lock: $(CODEGEN) ## Resolve requirements*.in to requirements*.lock, with hashes and without addresses
	.venv-codegen/bin/python tools/lock.py

.PHONY: hooks
hooks: $(INSTALLED) ## Let git run the quick checks before each commit (pre-commit)
	$(BIN)/pre-commit install

##@ Clean

.PHONY: clean
clean: ## Remove caches and what was built
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find libs services tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove the environments too
	rm -rf .venv .venv-codegen

# --- the environments ---

define make-environment
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + \
		sys.version.split()[0] + "; say which: make PYTHON=...") if sys.version_info < (3, 11) else None'
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
	@echo "Installing $(2) into $(1): once, about a minute"
	@# Modules are compiled when they are first imported, which most of them never are.
	@$(1)/bin/python -m pip install --quiet --no-compile --require-hashes -r $(2)
endef

$(INSTALLED): requirements.lock $(PARTS:%=%/pyproject.toml)
	$(call make-environment,.venv,requirements.lock)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation $(PARTS:%=-e %)
	@$(BIN)/python -m pip check
	@touch $@

$(CODEGEN): requirements-codegen.lock
	$(call make-environment,.venv-codegen,requirements-codegen.lock)
	@touch $@
