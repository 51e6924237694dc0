# Every command of the project. A fresh machine needs Rust, a C compiler and a CPython >= 3.10; the rest is set up on demand,
# for the tests also Debian's redis-server and rabbitmq-server.
# Choose an interpreter with PYTHON=python3.12 (build, demo, bench, docs) or PYTHONS="3.10 3.13" (test).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
export PYTHON PYTHONS

VENV := .venv

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@scripts/prerequisites

.PHONY: build
build: prerequisites ## build the release into .venv, editable: Python edits need no rebuild
	@$$(scripts/interpreters --default) scripts/environment $(VENV)
	@PIP_QUIET=1 VIRTUAL_ENV=$(VENV) $(VENV)/bin/maturin develop --release --locked --quiet

.PHONY: test
test: test-rust test-python ## run all tests, Rust and Python, the latter on every CPython found

.PHONY: test-rust
test-rust: prerequisites ## run the Rust tests and the loom models
	@scripts/test-rust

.PHONY: test-python
test-python: prerequisites ## run the Python tests; narrow with PYTHONS="3.13" ARGS="-k retry"
	@scripts/test-python $(ARGS)

.PHONY: test-ray
test-ray: prerequisites ## run the tests on a real Ray cluster, on one Python; no part of `test`, for Ray is large
	@scripts/test-ray $(ARGS)

.PHONY: compat
compat: prerequisites ## run CPython's own tests of concurrent.futures, locks and queues on manyhands; ARGS="FutureTests"
	@scripts/compat $(ARGS)

.PHONY: fuzz
fuzz: prerequisites ## look for bytes that the queue's formats cannot bear, for a minute each; ARGS="600" for ten
	@scripts/fuzz $(ARGS)

.PHONY: lint
lint: prerequisites ## check formats, lints, types, stubs, layers and licences
	@scripts/lint

.PHONY: demo
demo: build ## look the machine's time zones up at a slow, failing service, by `manyhands map` and in four ways
	@$(VENV)/bin/python -c 'import zoneinfo, sys; sys.exit(not zoneinfo.available_timezones())' \
		|| $(VENV)/bin/pip install --quiet tzdata
	@$(VENV)/bin/python examples/demo.py

.PHONY: bench
bench: build ## compare with the standard library and others; writes docs/benchmarks.md unless ARGS="--only submit,map" or so
	@scripts/servers
	@scripts/peers
	@.venv-peers/bin/python -m bench.versus $(or $(ARGS),--long --render)
	@$(VENV)/bin/python scripts/chart

.PHONY: contract
contract: build ## run the fault contract on us and on others; writes the README's table unless ARGS="--only Pebble" or so
	@scripts/peers
	@.venv-peers/bin/python -m bench.contract $(ARGS)

.PHONY: format
format: prerequisites ## rewrite the sources in the house format
	@cargo fmt --all
	@$$(scripts/interpreters --default) scripts/environment $(VENV)
	@$(VENV)/bin/ruff check --fix --quiet && $(VENV)/bin/ruff format

.PHONY: docs
docs: build ## write the reference and the chart, then run every example of the docs and follow every link
	@scripts/servers
	@$(VENV)/bin/python scripts/reference
	@$(VENV)/bin/python scripts/chart
	@$(VENV)/bin/python -m pytest -q tests/docs

.PHONY: clean
clean: ## remove everything that was built, environments included
	@rm -rf target fuzz/target fuzz/Cargo.lock build demo-output .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find python tests scripts bench examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@find python -name '*.so' -delete
