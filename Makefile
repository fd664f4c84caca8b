# Two commands do all: `make demo` runs the main job, `make test` passes the tests. Both install what they need.
SHELL := /bin/bash
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# The demo and the VM side run on the distribution's own interpreter and python3-* packages; .venv holds the newest PyPI releases.
PYTHON := /usr/bin/python3
VENV := .venv
ARGS ?=

.PHONY: demo test check bench docs format clean deb rpm release images playground

demo: .setup-demo
	$(SUDO) $(PYTHON) -m demo $(ARGS)

test: .setup-test
	$(SUDO) tests/run

check: .setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTHON) -m pytest tests/test_layout.py

bench: .setup-test
	$(SUDO) $(PYTHON) -m bench $(ARGS)

docs:
	$(PYTHON) -m harness.reference docs

deb: .setup-package
	packaging/deb/build --lint

rpm: .setup-package
	packaging/rpm/build --lint

release: .setup-package
	packaging/release

# ARGS: docker/build's, such as --programs FOLDER, or --k3d CLUSTER
images: deb
	docker/build $(ARGS)

# docs/playground.md, each step verified. ARGS=--check only looks whether all is here; ARGS=teardown removes all of it.
playground:
	@deploy/playground/walk $(ARGS)

format: .setup-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: .setup-demo .setup-test .setup-dev .setup-package
.setup-demo:
	@$(SUDO) ./setup demo
.setup-test:
	@$(SUDO) ./setup test
.setup-dev:
	@./setup dev
.setup-package:
	@$(SUDO) ./setup package

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache
