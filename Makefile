# `make demo` migrates a real machine on this one; `make test` proves everything. Both do their own set-up.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

collection  := collections/ansible_collections/cda/coldmig
bin         := $(CURDIR)/.venv/bin
python_code := agent/coldmig_agent agent/build.py gateway/src/coldmig_wire gateway/src/coldmig_gateway \
               $(collection)/plugins/module_utils
pytest      := python -m pytest -q
# The copy against real file systems, devices, faults and crowds: real processes, minutes instead of seconds.
copy_tests  := tests/agent/freespace tests/agent/devices tests/gateway/properties tests/faults tests/load tests/benchmarks
export PATH := $(bin):$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/collections
export PYTHONPATH := $(CURDIR)/gateway/src

.PHONY: help setup demo test check lint types unit sanity molecule integration copy boot long benchmark build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:
	@tests/setup/prepare test

demo: ## migrate a real machine, from its ISO to its login prompt in the cloud (DEMO="--firmware uefi")
	@tests/setup/prepare demo
	@python -m tests.e2e.demo $(DEMO)

test: check sanity molecule integration copy boot ## everything: lint, unit, sanity, molecule, integration, end to end

check: setup lint types unit ## the quick part

lint:
	ruff check .
	ruff format --check .
	yamllint --strict .
	ansible-lint --offline --profile production
	cd $(collection) && antsibull-changelog lint
	antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck $(collection)

types:
	mypy $(python_code)

unit:
	$(pytest) -n 2 -m "not slow" $(addprefix --ignore=,$(copy_tests)) tests/agent tests/gateway tests/iso \
	    $(collection)/tests/unit

sanity: setup
	tests/sanity/run

molecule: setup
	cd $(collection) && molecule test --all

integration: setup
	$(pytest) -n 3 -m "not long" tests/simulators tests/integration tests/sanity

copy: setup
	$(pytest) -n 2 $(copy_tests)

boot: setup
	python -m pytest -v -n 2 -m "(slow or e2e) and not long" tests/iso tests/e2e

long: setup ## what takes too long for every run: all guests of the boot matrix, runs killed at any call
	python -m pytest -v -n 2 -m long tests/integration tests/iso tests/e2e

benchmark: setup ## the copy against its peers; rewrites docs/performance.md (BENCHMARK="--quick")
	@python -m tests.benchmarks $(BENCHMARK)

build: setup ## the collection's artifact, in build/
	mkdir -p build
	ansible-galaxy collection build --force --output-path build $(collection)

clean: ## what the targets left in the checkout (the caches outside it stay)
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .ansible $(collection)/tests/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
