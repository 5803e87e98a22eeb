# The front door. Everything is built into .venv; a second run takes seconds.
#   make serve        the server with the built-in simulator
#   make test         everything that must pass, on real sockets, browsers and programs
#   make lint bench debug conformance clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard fastws/*.pyx fastws/*.pxd fastws/*/*.pyx fastws/*/*.pxd fastws/*/*.pxi) setup.py
SERVE_FLAGS ?= --feed sim

.PHONY: serve test lint bench debug conformance wheel clean system

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit("fastws needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	@touch $@

# What runs and builds the server.
$(VENV)/.build: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install -q --group build
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' > $(VENV)/.requirements
	$(BIN)/python -m pip install -q -r $(VENV)/.requirements
	@touch $@

$(VENV)/.installed: $(VENV)/.build $(SOURCES)
	@rm -f $(VENV)/.debug
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	@touch $@

# What tests and checks it.
$(VENV)/.dev: $(VENV)/.build
	$(BIN)/python -m pip install -q --group dev
	@touch $@

node_modules/.ready: package.json
	npm install --no-audit --no-fund --no-package-lock --silent
	@touch $@

# Real programs that the tests drive. Installed where this is root on a Debian; elsewhere the tests say what is missing.
system:
	@sh tests/install_system.sh

serve: $(VENV)/.installed
	$(BIN)/fastws serve $(SERVE_FLAGS)

test: $(VENV)/.installed $(VENV)/.dev system
	@if command -v npm >/dev/null; then $(MAKE) -s node_modules/.ready; fi
	$(BIN)/python -m pytest

lint: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint fastws
	$(BIN)/python -m mypy.stubtest $$(ls fastws/*.pyi fastws/bench/*.pyi | sed 's/\.pyi$$//; s,/,.,g') --concise --ignore-disjoint-bases --allowlist tests/stubtest_allowlist.txt

bench: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-disable-gc --benchmark-storage=file://./bench_results --benchmark-columns=min,median,ops,rounds

# Bounds and None checks on, objects counted; the tests then also fail when an object is left over.
debug: $(VENV)/.build $(VENV)/.dev
	@rm -f $(VENV)/.installed
	FASTWS_DEBUG=1 $(BIN)/python setup.py -q build_ext --inplace --force
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	@touch $(VENV)/.debug
	$(BIN)/python -m pytest

# AUTOBAHN names a command that runs the suite's fuzzing client: AUTOBAHN URL CASES, e.g. a script around wstest.
conformance: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m tests.conformance.run_autobahn $(AUTOBAHN)

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build -q

clean:
	rm -rf $(VENV) build dist *.egg-info node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find fastws -name '*.so' -delete
	rm -f $(patsubst %.pyx,%.c,$(wildcard fastws/*.pyx fastws/*/*.pyx))
	find . -name __pycache__ -prune -exec rm -rf {} +
