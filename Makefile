# Two commands do all: `make demo` runs the main job, `make test` passes the tests. Both install what they need.
# `make` alone prints what there is: what follows ## in this file.
SHELL := /bin/bash
# Looked for when it is used: `make` alone needs no root.
SUDO = $(if $(filter 0,$(shell id -u)),,$(or $(shell command -v sudo),$(error this needs root: run it as root, or install sudo)))
# The demo and the VM side run on the distribution's own interpreter and python3-* packages; .venv holds the newest PyPI releases.
PYTHON := /usr/bin/python3
VENV := .venv
ARGS ?=
.DEFAULT_GOAL := help

.PHONY: help demo test check bench fuzz audit docs format clean deb rpm release images playground

help: ## print this
	@awk -F ' *:.*## ' '/^[a-z]+:.*## /{printf "make %-12s%s\n", $$1, $$2} /^## /{sub(/^## ?/, ""); printf "%17s%s\n", "", $$0}' Makefile

demo: .setup-demo ## the playground on this machine; Ctrl-C takes everything down
## ARGS='--port 8080': another port for the page
## ARGS=--once: check the whole scenario, print one line of JSON, and end
## ARGS=--real: on SPIRE, linkerd2-proxy and Linkerd's control plane, from PATH; with --once or without
	$(SUDO) $(PYTHON) -m demo $(ARGS)

test: .setup-test ## all tests; ARGS='tests/unit -x': some of them, with pytest's options
	$(SUDO) tests/run $(ARGS)

check: .setup-dev ## ruff, mypy, and the shape of the code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTHON) -m pytest tests/test_layout.py

bench: .setup-test ## figures, as a table and in build/bench.json; ARGS='check redirect': two of them
	$(SUDO) $(PYTHON) -m bench $(ARGS)

fuzz: .setup-test ## 1,000,000 inputs that nobody would send, for every reader of what comes from outside; 20 min
	$(SUDO) $(PYTHON) -m bench fuzz

audit: .setup-dev ## what the package index knows against the newest releases that are installed here
	$(VENV)/bin/python -m tests.dependencies

docs: ## the reference pages in docs/, from the program's own tables
	$(PYTHON) -m harness.reference docs
	$(PYTHON) deploy/chart_readme.py deploy/chart/README.md

deb: .setup-package ## dist/*.deb
	packaging/deb/build --lint

rpm: .setup-package ## dist/*.rpm
	packaging/rpm/build --lint

release: .setup-package ## all that a release has, in dist/
	packaging/release

images: ## container images, with Docker alone
## ARGS: docker/build's, such as --programs FOLDER, or --k3d CLUSTER
	docker/build $(ARGS)

playground: ## docs/playground.md, each step verified; run it as often as you like
## ARGS=--check: only say what is needed, and whether that is here
## ARGS=teardown: remove all of it
	@deploy/playground/walk $(ARGS)

format: .setup-dev ## format the code
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

clean: ## remove what was built here
	rm -rf build dist .venv .mypy_cache .ruff_cache
