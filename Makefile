# Everything happens in .venv and target; nothing else is touched. `make help` lists the targets.
# Needed: Rust with Cargo, Python 3.11 or later with venv, make.

# The interpreter that makes .venv: `make PYTHON=python3.14 test`. By default the first that will do.
PYTHON ?=
FILES ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := requirements/constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUIET_PIP := $(PIP) --quiet
ENGINE := --package flask-delay-engine
CARGO_DENY := 0.20.2

# PyO3's build script asks this interpreter; the same one everywhere, or it builds anew each time.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_REQUIRE_VIRTUALENV := 1

# Loom runs on the release profile: a model is millions of steps. Its own target directory,
# because the flag would build everything else anew.
LOOM := RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true

# A Python without the GIL, which need not be there for its kind of build to be checked.
FREE_THREADED := PYO3_CONFIG_FILE=$(CURDIR)/tests/interpreters/free-threaded.txt \
	CARGO_TARGET_DIR=target/free-threaded

# -L: one module of the package is a link to an example.
PYTHON_SOURCES := $(shell find -L python -type f \( -name "*.py" -o -name "*.pyi" -o -name py.typed \))
RUST_SOURCES := $(shell find src -type f) build.rs Cargo.toml Cargo.lock

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show this list
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done
	@echo 'Variables: PYTHON=python3.14  FILES="a.txt b.txt" (demo)  PYTEST_ARGS="-k name" (test)  CASES="tasks" ROUNDS=2 (bench)'

.PHONY: demo
demo: $(VENV)/.installed ## Install into .venv and run the demo; FILES="..." for your own files
	@$(BIN)/python -m flask_delay demo $(FILES)

.PHONY: install
install: $(VENV)/.installed ## Install the package into .venv as a user would (pip install .)

.PHONY: test
test: $(VENV)/.installed $(VENV)/.tools ## Run all tests: Rust, loom models, Python
	@# Two at a time, once what all need is there: none uses more than one processor for long.
	@$(MAKE) --no-print-directory -j2 test-engine $(if $(PYTEST_ARGS),test-python,test-core test-others)

.PHONY: test-engine
test-engine: test-rust
	@$(MAKE) --no-print-directory test-loom

.PHONY: test-rust
test-rust: ## Run the engine's Rust tests
	cargo test --locked $(ENGINE)

.PHONY: test-loom
test-loom: ## Run the engine's loom models
	@# One at a time: side by side they take twice as long, over the memory map they share.
	$(LOOM) cargo test --locked $(ENGINE) --release --test 'loom*' -- --test-threads=1

.PHONY: test-python
test-python: $(VENV)/.installed $(VENV)/.tools ## Run pytest; PYTEST_ARGS="..."
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The two halves of it.
.PHONY: test-core
test-core: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/python -m pytest tests/core

.PHONY: test-others
test-others: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/python -m pytest --ignore tests/core

# CPython's tests come with it, but for Debian's and Ubuntu's: libpython3-testsuite, or for
# another version than the default one libpython3.N-testsuite.
.PHONY: conformance
conformance: $(VENV)/.installed ## Run CPython's own tests of executors and futures on ours
	$(BIN)/python tests/conformance/run.py

# The versions that are supported; each gets an environment of its own.
VERSIONS := 3.11 3.12 3.13 3.14 3.14t

.PHONY: test-all
test-all: ## Run pytest on every supported Python that is here; names those that are not
	@failed=; for version in $(VERSIONS); do \
		found=; for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/python$$version; do \
			"$$python" -c 'import ensurepip, venv' 2>/dev/null && { found=$$python; break; }; \
		done; \
		if [ -z "$$found" ]; then echo "== Python $$version: not here, skipped"; continue; fi; \
		echo "== Python $$version: $$found"; \
		$(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$found test-python || failed="$$failed $$version"; \
	done; \
	if [ "$$failed" ]; then echo "failed on Python$$failed" >&2; exit 1; fi

# An interpreter that the machine does not have, as Debian has it in another suite.
SUITE := forky
VERSION := 3.14

.PHONY: test-debian
test-debian: ## Run pytest and CPython's tests on another Debian's Python; SUITE=forky VERSION=3.14
	bash tests/interpreters/debian.sh $(SUITE) $(VERSION) --keep-going test-python conformance

.PHONY: races
races: $(VENV)/.installed ## Race waits against ends and forks against load, and count what is lost
	$(BIN)/python -W ignore::DeprecationWarning tests/races.py

.PHONY: soak
soak: $(VENV)/.installed ## Mix everything for ten minutes and add up; SECONDS=60 for less
	$(BIN)/python tests/soak.py $(or $(SECONDS),600)

.PHONY: soak-policies
soak-policies: $(VENV)/.installed ## A million tasks with every policy, mixed, and add up; COUNT=20000 for less
	$(BIN)/python tests/soak_policies.py $(or $(COUNT),1000000)

.PHONY: countdowns
countdowns: $(VENV)/.installed ## 100,000 countdowns in random order: are they in order, how late; COUNT=1000 for less
	$(BIN)/python tests/countdowns.py $(or $(COUNT),100000)

# Peers come into an environment of their own, with the wheel that .venv has.
BENCH := $(VENV)-bench
CASES ?=
ROUNDS ?= 5

.PHONY: bench
bench: $(BENCH)/.installed ## Measure ours and the peers; CASES="tasks memory" ROUNDS=2 for a part
	cargo build --quiet --locked --release $(ENGINE) --example handover
	$(BENCH)/bin/python -m benchmarks --rounds $(ROUNDS) $(if $(CASES),--cases $(CASES))

.PHONY: bench-pins
bench-pins: ## Pin the newest versions of the peers
	rm -rf $(BENCH)
	$(MAKE) --no-print-directory $(BENCH)/.installed PINNED=
	{ echo '# Made by `make bench-pins`: the peers and what the suite needs, to the last dependency.'; \
		$(BENCH)/bin/python -m pip freeze --exclude flask-delay; } > benchmarks/requirements.txt
	@touch $(BENCH)/.installed

.PHONY: instructions
instructions: $(VENV)/.installed ## Count instructions per task, compare with the kept figure; UPDATE=1 keeps it
	$(BIN)/python -m benchmarks --instructions $(if $(UPDATE),keep,compare)

.PHONY: ecosystem
ecosystem: $(VENV)/.installed $(VENV)/.ecosystem ## Run other libraries on our executor, and the type checkers
	$(BIN)/python -m pytest tests/ecosystem tests/typing $(PYTEST_ARGS)

.PHONY: servers
servers: $(VENV)/.installed $(VENV)/.servers ## Run the tests of every server; make test has the quick ones
	$(BIN)/python -m pytest tests/servers tests/processes tests/celery -m "" $(PYTEST_ARGS)

.PHONY: lint
lint: lint-rust lint-apple lint-python ## Check formats, clippy, macOS, ruff, types and stubs

.PHONY: lint-rust
lint-rust: $(VENV)/.pip ## Check rustfmt and clippy; loom models and free threading too
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(LOOM) cargo clippy --locked $(ENGINE) --release --lib --test 'loom*' -- -D warnings
	$(FREE_THREADED) cargo clippy --locked --workspace --all-targets -- -D warnings

# PyO3 is told which Python is meant: there is none for these targets here.
APPLE := PYO3_CONFIG_FILE=$(CURDIR)/tests/interpreters/apple.txt CARGO_TARGET_DIR=target/apple

.PHONY: lint-apple
lint-apple: ## Check that it compiles for macOS, where Rust's targets for that are installed
	@for target in aarch64-apple-darwin x86_64-apple-darwin; do \
		if [ -d "$$(rustc --print sysroot)/lib/rustlib/$$target/lib" ]; then \
			echo "cargo check --target $$target"; \
			$(APPLE) cargo check --locked --workspace --target $$target || exit 1; \
		else \
			echo "$$target NOT checked: rustup target add $$target"; \
		fi; \
	done

.PHONY: lint-python
lint-python: $(VENV)/.installed $(VENV)/.tools ## Check ruff, mypy and the native module's stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest flask_delay._native

.PHONY: format
format: $(VENV)/.tools ## Format Rust and Python, apply ruff's safe fixes
	cargo fmt --all
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: build
build: $(VENV)/.tools ## Put the sdist and a wheel built from it into dist
	rm -rf dist
	$(BIN)/maturin sdist --out dist
	@# No cache: it knows a file by its name.
	$(PIP) wheel --no-cache-dir --no-deps --build-constraint $(CONSTRAINTS) --wheel-dir dist dist/*.tar.gz

.PHONY: audit
audit: target/tools/bin/cargo-deny ## Check licences, bans, sources and, where it can, advisories
	target/tools/bin/cargo-deny --locked check licenses bans sources
	@if target/tools/bin/cargo-deny --locked fetch db >target/tools/fetch.log 2>&1; then \
		target/tools/bin/cargo-deny --locked check advisories; \
	else \
		echo 'advisories NOT checked: their database could not be fetched (target/tools/fetch.log)'; \
	fi

.PHONY: constraints
constraints: $(VENV)/.pip ## Pin the newest of everything tests and lint need
	rm -rf $(VENV)-fresh
	$(BIN)/python -m venv $(VENV)-fresh
	$(VENV)-fresh/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-fresh/bin/python -m pip install --quiet --group dev --group ecosystem --group servers "flask>=3.0"
	{ echo '# Made by `make constraints`: what the Makefile installs, to the last dependency.'; \
		$(VENV)-fresh/bin/python -m pip freeze --all --exclude setuptools; } > $(CONSTRAINTS).new
	mv $(CONSTRAINTS).new $(CONSTRAINTS)
	rm -rf $(VENV)-fresh

.PHONY: clean
clean: ## Remove all that these targets made
	rm -rf $(VENV) $(VENV)-* target dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests examples benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# The interpreter is tried, not looked up: a name may stand for a version that is not there.
$(VENV)/.pip: $(CONSTRAINTS)
	@incomplete=; for python in $(or $(PYTHON),python3.11 python3 python3.14 python3.13 python3.12); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		incomplete=$$python; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "$$python -m venv $(VENV)"; \
		exec "$$python" -m venv --clear $(VENV); \
	done; \
	if [ "$$incomplete" ]; then \
		echo "$$incomplete lacks venv or ensurepip; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	else \
		echo 'No Python 3.11 or later found$(if $(PYTHON), as $(PYTHON)); name one: make PYTHON=/path/to/python3 ...' >&2; \
	fi; \
	exit 2
	$(QUIET_PIP) install --constraint $(CONSTRAINTS) pip
	@touch $@

$(VENV)/.tools: $(VENV)/.pip pyproject.toml
	$(QUIET_PIP) install --constraint $(CONSTRAINTS) --group dev
	@touch $@

$(VENV)/.ecosystem: $(VENV)/.tools
	$(QUIET_PIP) install --constraint $(CONSTRAINTS) --group ecosystem
	@touch $@

$(VENV)/.servers: $(VENV)/.tools
	$(QUIET_PIP) install --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --group servers
	@touch $@

# Not editable, for tests too: they meet the files a user gets, and the wheel's contents are tested.
# Cargo keeps what it built, so a change in Python alone costs seconds.
$(VENV)/.installed: $(VENV)/.pip pyproject.toml README.md LICENSE $(RUST_SOURCES) $(PYTHON_SOURCES)
	@command -v cargo >/dev/null || { echo 'cargo not found; install Rust first' >&2; exit 2; }
	$(PIP) install --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) .
	@touch $@

PINNED := --constraint benchmarks/requirements.txt

$(BENCH)/.installed: $(VENV)/.installed benchmarks/requirements.txt benchmarks/install.py $(wildcard benchmarks/peers/*.py)
	@test -x $(BENCH)/bin/python || $(BIN)/python -m venv --clear $(BENCH)
	rm -rf target/bench
	$(PIP) wheel --quiet --no-cache-dir --no-deps --build-constraint $(CONSTRAINTS) --wheel-dir target/bench .
	$(BENCH)/bin/python -m pip --disable-pip-version-check install --quiet --force-reinstall \
		$(PINNED) target/bench/*.whl
	$(BENCH)/bin/python -m benchmarks.install $(PINNED)
	@touch $@

# --root and the version: the machine's own tools neither matter nor change.
target/tools/bin/cargo-deny:
	cargo install cargo-deny --locked --version $(CARGO_DENY) --root target/tools
