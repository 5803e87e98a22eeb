# The front door: `make` lists what there is. Everything is built into .venv; a second run takes seconds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard fastws/*.pyx fastws/*.pxd fastws/*/*.pyx fastws/*/*.pxd fastws/*/*.pxi fastws/*/*.h fastws/*/*/*.pxi) setup.py
SERVE_FLAGS ?= --feed sim
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
BASE ?= bench_results/micro.json
# Most tests wait for sockets and processes rather than compute, so more of them fit than there are processors.
# In the order of their directories: what starts servers and browsers comes first, and many small tests fill up the end.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --benchmark-disable
# Where this is set, each process of the tests would compile all of Python's sources again.
unexport PYTHONDONTWRITEBYTECODE

# A build for tests in the place of the one that serves, which is compiled again as a whole when it is next asked for.
define build-variant
	@rm -f $(VENV)/.installed; touch $(VENV)/.variant
	@echo "compiling the core: about a minute"
	$(1) CYTHON_FORCE_REGEN=1 $(BIN)/python setup.py -q build_ext --inplace --force -j $(shell getconf _NPROCESSORS_ONLN)
	FASTWS_COMPILED=1 $(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
endef

.PHONY: help serve test test-long lint docs bench bench-compare bench-load figures soak soak-restore soak-clients chaos chaos-relay soak-dashboard bench-peers peers debug portable sanitize conformance fuzz audit wheel try-wheel try-wheels binary try-binary try-image clean system
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Checked first, because what pip and setuptools say when something is missing fills a screen and does not name it.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("fastws needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@set -- $${CC:-cc}; command -v "$$1" >/dev/null \
	&& $(PYTHON) -c 'import ensurepip, os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null \
	|| { echo "fastws needs a C compiler and Python's headers: apt-get install build-essential python3-dev python3-venv" >&2; exit 1; }
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
	@echo "compiling the core: about a minute"
	$(if $(wildcard $(VENV)/.variant),CYTHON_FORCE_REGEN=1) $(BIN)/python setup.py -q build_ext --inplace $(if $(wildcard $(VENV)/.variant),--force) -j $(shell getconf _NPROCESSORS_ONLN)
	@rm -f $(VENV)/.variant
	FASTWS_COMPILED=1 $(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@

# What tests and checks it.
$(VENV)/.dev: $(VENV)/.build
	$(BIN)/python -m pip install -q --group dev
	@touch $@

tests/node_modules/.ready: tests/package.json
	npm install --prefix tests --no-audit --no-fund --no-package-lock --silent
	@touch $@

# Installed where this is root on a Debian; elsewhere the tests say what is missing.
system: ## the programs that the tests drive: Chromium, Node, nginx, PostgreSQL, Redis
	@sh tests/install_system.sh

serve: $(VENV)/.installed ## the server with the built-in simulator; others: SERVE_FLAGS="--feed none"
	$(BIN)/fastws serve $(SERVE_FLAGS)

test: $(VENV)/.installed $(VENV)/.dev system ## the tests, on real sockets, browsers and programs
	@if command -v npm >/dev/null; then $(MAKE) -s tests/node_modules/.ready; fi
	$(PYTEST)

test-long: $(VENV)/.installed $(VENV)/.dev system ## the few tests that measure for a while, which test leaves out
	@if command -v npm >/dev/null; then $(MAKE) -s tests/node_modules/.ready; fi
	$(BIN)/python -m pytest --long

lint: $(VENV)/.installed $(VENV)/.dev ## ruff, mypy, cython-lint, stubtest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint fastws
	$(BIN)/python -m mypy.stubtest $$(ls fastws/*.pyi fastws/bench/*.pyi | sed 's/\.pyi$$//; s,/,.,g') --concise --ignore-disjoint-bases --allowlist tests/stubtest_allowlist.txt

# Links that lead nowhere fail it. It is read from the disk, or from any web server.
docs: $(VENV)/.installed ## the documentation, into site/
	$(BIN)/python -m pip install -q --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict
	@echo "site/index.html"

# About two minutes. For a few of them: .venv/bin/python -m benchmarks.micro run -k frames
bench: $(VENV)/.installed $(VENV)/.dev ## micro-benchmarks, into bench_results/micro.json and its page
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.micro run --json bench_results/micro.json --page bench_results/README.md

# BASE is what `make bench` has written before the change, best on the same machine. Fails when something is slower.
bench-compare: $(VENV)/.installed $(VENV)/.dev ## the same, against BASE=bench_results/micro.json
	$(BIN)/python -m benchmarks.micro compare --base $(BASE)

# About eight minutes; the kernel's limit of open files (ulimit -Hn) must allow 10,100.
bench-load: $(VENV)/.installed ## load on a real server (fan-out, idle, slow readers, …), into bench_results/load_*.json
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.load fanout --connections 1000 --rate 4000 --seconds 10 --json bench_results/load_fanout.json
	$(BIN)/python -m benchmarks.load fanout --connections 10000 --rate 1000 --ping 20 --seconds 8 --json bench_results/load_flood.json
	$(BIN)/python -m benchmarks.load watchlists --connections 10000 --json bench_results/load_watchlists.json
	$(BIN)/python -m benchmarks.load watchlists --connections 3000 --json bench_results/load_watchlists_3000.json
	$(BIN)/python -m benchmarks.load rush --connections 10000 --json bench_results/load_rush.json
	$(BIN)/python -m benchmarks.load growth --json bench_results/load_growth.json
	$(BIN)/python -m benchmarks.load idle --connections 9000 --json bench_results/load_idle.json
	$(BIN)/python -m benchmarks.load sessions --connections 9000 --json bench_results/load_sessions.json
	$(BIN)/python -m benchmarks.load cycles --connections 5000 --json bench_results/load_cycles.json
	$(BIN)/python -m benchmarks.load kis --connections 1000 --rate 2000 --json bench_results/load_kis.json
	$(BIN)/python -m benchmarks.load portfolios --seconds 10 --json bench_results/load_portfolios.json
	$(BIN)/python -m benchmarks.load relay --json bench_results/load_relay.json
	$(BIN)/python -m benchmarks.load inlet --json bench_results/load_inlet.json
	$(BIN)/python -m benchmarks.load slow --connections 500 --slow 50 --seconds 20 --json bench_results/load_slow.json
	$(BIN)/python -m benchmarks.load deflate --connections 1000 --json bench_results/load_deflate.json
	$(BIN)/python -m benchmarks.load alerts --rules 10000 --json bench_results/load_alerts.json
	$(BIN)/python -m benchmarks.load storm --connections 2000 --json bench_results/load_storm.json
	$(BIN)/python -m benchmarks.load stop --connections 5000 --json bench_results/load_stop.json
	$(BIN)/python -m benchmarks.load rolling --connections 5000 --json bench_results/load_rolling.json
	$(MAKE) -s figures

figures: $(VENV)/.installed ## the page and the plots of what was measured, bench_results/README.md
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python -m benchmarks.figures

# An hour by default. From 30 minutes on its slopes are judged.
soak: $(VENV)/.installed ## an hour (MINUTES=60) of clients that come and go, slow ones and bursts: nothing grows; into bench_results/soak/
	@mkdir -p bench_results/soak
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python -m benchmarks.load soak --minutes $(or $(MINUTES),60) --json bench_results/soak/soak.json
	$(BIN)/python -m benchmarks.soak_plot bench_results/soak/soak.json

# About a minute and a half; each run has other deaths than the last.
soak-restore: $(VENV)/.installed ## 200 outages at 2,000 updates/s, no update missing or twice; into bench_results/load_restore.json
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.load restore --cycles 200 --seed $$(date +%s) --json bench_results/load_restore.json

# About two minutes; each run has other kills than the last.
soak-clients: $(VENV)/.installed tests/node_modules/.ready ## fastws.js and fastws.client, 500 connections of each killed at 1,500 updates/s
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.load clients --kills 500 --seed $$(date +%s) --json bench_results/load_clients.json

# About six minutes. Some faults take root, and libfaketime; what cannot be made here is left out, and said to be.
chaos: $(VENV)/.installed ## every fault under load (networks, readers, clock, disk, descriptors, memory, halts, feeds); into bench_results/chaos.json
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.load faults --connections $(or $(RECONNECTS),10000) --json bench_results/chaos.json

# About a minute, as root: it takes a network namespace.
chaos-relay: $(VENV)/.installed ## three servers whose Redis is killed five times, and one cut off for 20 s: nothing lost unsaid; into bench_results/load_chaos.json
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.load chaos --kills 5 --partition 20 --json bench_results/load_chaos.json

# About a minute and a half, on a machine that does nothing else: it measures what keeps a reader waiting.
soak-dashboard: $(VENV)/.installed $(VENV)/.dev system ## the dashboard in Chromium at 1,000 updates/s for a minute: no task over 200 ms, memory flat
	@mkdir -p bench_results
	$(BIN)/python -m tests.browser.dashboard_soak --seconds 60 --json bench_results/dashboard.json

# Those that compare with other servers; what cannot be installed is left out of the comparison, which says so.
peers: $(VENV)/.installed ## the servers that bench-peers compares with: socketify, Bun, Nchan (as root on a Debian)
	$(BIN)/python -m pip install -q --group peers
	@sh benchmarks/peers/install_system.sh
	@if command -v npm >/dev/null; then npm install --prefix benchmarks/peers --no-audit --no-fund --no-package-lock --silent; fi
	$(BIN)/python -m benchmarks.peers --list

# About thirteen minutes; the kernel's limit of open files (ulimit -Hn) must allow 10,100. Four rounds of A and C, whose
# medians are quoted: those of two wander. What falls over under the heavy loads is told, and ended before it takes the
# machine with it.
bench-peers: peers ## the same load on other servers and on this one, into bench_results/peers.json
	@mkdir -p bench_results
	$(BIN)/python -m benchmarks.peers A C --rounds 4 --json bench_results/peers.json
	$(BIN)/python -m benchmarks.peers B D --rounds 1 --seconds 3 --batch-interval-ms 30 --json bench_results/peers_heavy.json
	$(MAKE) -s figures

# Bounds and None checks on, objects counted; the tests then also fail when an object is left over.
debug: $(VENV)/.build $(VENV)/.dev ## a build with checks and object counters, and the tests on it; into bench_results/sanitize.json
	$(call build-variant,FASTWS_DEBUG=1)
	@mkdir -p bench_results
	$(PYTEST) --outcome=debug:bench_results/sanitize.json

# The ways that are taken where there is no Linux, on Linux.
portable: $(VENV)/.build $(VENV)/.dev ## a build that uses nothing that only Linux has, and the tests of the compiled parts
	$(call build-variant,FASTWS_PORTABLE=1)
	FASTWS_PORTABLE=1 $(PYTEST) tests/unit tests/protocol tests/integration/test_capi.py tests/integration/test_embedding.py

# In copies of the tree, below build/sanitize; PARTS=ring is the shortest of them.
sanitize: $(VENV)/.build $(VENV)/.dev ## the tests of the compiled parts under ASan and UBSan, the C API under TSan; into bench_results/sanitize.json
	@mkdir -p bench_results
	$(BIN)/python -m tests.sanitized $(PARTS) --json bench_results/sanitize.json

# About an hour, with a Python 2.7, which the suite is for; a piece of it: SIDE=client SECTIONS="1 2 3".
conformance: $(VENV)/.installed $(VENV)/.dev ## the Autobahn suite on the server and on fastws.client; into bench_results/conformance.json
	@mkdir -p bench_results
	$(BIN)/python -m tests.conformance.run_autobahn $(addprefix --side ,$(SIDE)) $(if $(SECTIONS),--sections $(SECTIONS)) --json bench_results/conformance.json

# Ten minutes for each of eleven targets, on Linux with clang; a piece of it: MINUTES=1 TARGET="frames deflate".
fuzz: $(VENV)/.installed $(VENV)/.dev ## coverage-guided fuzzing of what reads bytes of others; into bench_results/fuzz.json
	$(BIN)/python -m pip install -q --group fuzz
	@mkdir -p bench_results
	$(BIN)/python -m tests.fuzz $(TARGET) --minutes $(or $(MINUTES),10) --json bench_results/fuzz.json

# What needs an advisory service says so where none is reached; the rest is decided by then.
audit: $(VENV)/.installed ## bandit over the source, and advisories about what it needs
	$(BIN)/python -m pip install -q --group audit
	$(BIN)/python -m bandit -q -ll -r fastws -c pyproject.toml
	$(BIN)/python -m pip_audit --strict --desc off -r $(VENV)/.requirements

wheel: $(VENV)/.python ## sdist, and the wheel that is built from it, checked, into dist/
	rm -rf dist
	$(BIN)/python -m pip install -q --group release
	$(BIN)/python -m build -q
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/installed/contents.py dist/*.whl

try-wheel: wheel ## install the wheel where nothing else is, and let it serve a client
	rm -rf build/try
	$(PYTHON) -m venv build/try
	build/try/bin/python -m pip install -q dist/*.whl
	build/try/bin/python tests/installed/smoke.py

# As long as the tests for each of them: PYTHONS="python3.12 /opt/python3.13/bin/python3".
try-wheels: wheel ## the tests on the installed wheel of each of PYTHONS that is here
	$(BIN)/python tests/installed/suite.py dist/*.tar.gz $(PYTHONS)

# PyInstaller gathers it, from a Python with a shared library; deploy/binary has the rest.
binary: wheel ## dist/fastws: the server in one file, that needs no Python where it runs
	$(BIN)/python deploy/binary/build.py dist/*.whl dist/fastws

# As root, also where there is the C library and nothing else, with a thousand clients.
try-binary: binary ## hold dist/fastws against the wheel that it is made of
	build/binary/environment/bin/python tests/installed/binary.py dist/fastws
	if [ "$$(id -u)" -eq 0 ] && command -v dpkg >/dev/null; then $(BIN)/python tests/installed/bare.py dist/fastws; fi

# Linux, as root: each stage is a file system of its own in memory.
try-image: ## the steps of deploy/Dockerfile without Docker; what they make is started, and asked whether it is healthy
	$(PYTHON) deploy/replay.py

clean: ## remove everything that was built
	rm -rf $(VENV) build dist site *.egg-info tests/node_modules benchmarks/peers/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find fastws -name '*.so' -delete
	rm -f $(patsubst %.pyx,%.c,$(wildcard fastws/*.pyx fastws/*/*.pyx))
	find . -name __pycache__ -prune -exec rm -rf {} +
