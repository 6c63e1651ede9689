# Everything happens in .venv and target; nothing else is touched. `make help` lists the targets.
# Needed: Rust with Cargo, Python 3.11 or later with venv, make.

# The interpreter that makes .venv: `make PYTHON=python3.14 test`. By default the first that will do.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := requirements/constraints.txt
INSTALL := $(PIP) install --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS)
WHEEL := $(PIP) --quiet wheel --no-cache-dir --no-deps --build-constraint $(CONSTRAINTS) --wheel-dir
AGAIN := $(MAKE) --no-print-directory
ENGINE := --package flask-delay-engine
# The crates with Rust tests: those without Python.
CRATES := $(ENGINE) --package flask-delay-journal

# PyO3's build script asks this interpreter; the same one everywhere, or it builds anew each time.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_REQUIRE_VIRTUALENV := 1

# Target directories of their own, because the flags would build everything else anew. The Pythons
# of the others than loom need not be there.
LOOM := RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom
KINDS := $(CURDIR)/tests/interpreters
FREE_THREADED := PYO3_CONFIG_FILE=$(KINDS)/free-threaded.txt CARGO_TARGET_DIR=target/free-threaded
APPLE := PYO3_CONFIG_FILE=$(KINDS)/apple.txt CARGO_TARGET_DIR=target/apple

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(MAKEFILE_LIST))

help: ## Show this list
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done
	@echo 'Variables: PYTHON=python3.14  FILES="a.txt b.txt" (demo)  PYTEST_ARGS="-k name" (test)  CASES="tasks" ROUNDS=2 BASE=a1b2c3d (bench)'
demo: $(VENV)/.installed ## Install into .venv and run the demo; FILES="..." for your own files
	@$(BIN)/python -m flask_delay demo $(FILES)
demo-durable: $(VENV)/.installed $(VENV)/.dev ## Run the demo of durable tasks, whose workers are killed
	@$(BIN)/python examples/durable/demo.py
demo-page: $(VENV)/.installed $(VENV)/.dev ## Keep the live page of a lively app open, on loopback, until Ctrl-C
	@$(BIN)/python examples/dashboard/demo.py
install: $(VENV)/.installed ## Install the package into .venv as a user would (pip install .)

test: $(VENV)/.installed $(VENV)/.dev ## Run the tests: Rust, loom models, Python; not those that take their time
	@# All at once, when what they need is there: tests wait a lot, and those of Rust most of the time.
	@$(AGAIN) -j4 $(if $(PYTEST_ARGS),test-python test-rust,test-core test-processes test-others test-rust) test-models
test-rust: ## Run the Rust tests of engine and journal
	cargo test --locked $(CRATES)
# One at a time: side by side they take twice as long, over the memory map they share.
MODELS := $(LOOM) cargo test --locked $(CRATES) --profile loom --test 'loom*' -- --test-threads=1
test-models: ## Run the loom models of engine and journal, with one preemption fewer than make models
	FEWER_PREEMPTIONS=1 $(MODELS)
models: ## Run the loom models in full; takes minutes
	$(MODELS)
test-python: $(VENV)/.installed $(VENV)/.dev ## Run pytest; PYTEST_ARGS="..."
	$(BIN)/python -m pytest $(PYTEST_ARGS)
# The folders with tests of servers and workers, which wait most of the time.
PROCESSES := tests/journal tests/processes tests/servers
test-core: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest tests/core
test-processes: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest $(PROCESSES)
test-others: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest --ignore tests/core $(addprefix --ignore ,$(PROCESSES))
test-workers: $(VENV)/.installed $(VENV)/.dev ## Run the tests with several processes on one journal; make test has the others
	@# They wait for each other a lot: more of them than processors.
	$(BIN)/python -m pytest tests/journal -m "workers and not slow" --numprocesses 3 $(PYTEST_ARGS)
test-slow: $(VENV)/.installed $(VENV)/.dev ## Run the tests that repeat one thing very often
	@# Some take longer than any other test may; each has a time of its own. Those of the type checkers
	@# are for make ecosystem, which has all checkers.
	$(BIN)/python -m pytest --ignore tests/typing -m slow -o faulthandler_timeout=600 \
		--numprocesses 2 --dist worksteal $(PYTEST_ARGS)
test-all: ## Run pytest on every supported Python that is here; names those that are not
	@failed=; for version in 3.11 3.12 3.13 3.14 3.14t; do \
		python=$$(sh tests/interpreters/find.sh python$$version \
				"$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/python$$version 2>/dev/null) \
			|| { echo "== Python $$version: not here, skipped"; continue; }; \
		echo "== Python $$version: $$python"; \
		$(AGAIN) VENV=.venv-$$version PYTHON=$$python test-python || failed="$$failed $$version"; \
	done; \
	[ -z "$$failed" ] || { echo "failed on Python$$failed" >&2; exit 1; }
test-debian: ## Run pytest and CPython's tests on another Debian's Python; SUITE=forky VERSION=3.14
	bash tests/interpreters/debian.sh $(or $(SUITE),forky) $(or $(VERSION),3.14) --keep-going test-python conformance

# They come with CPython, but for Debian's and Ubuntu's: libpython3-testsuite, or for another version
# than the default one libpython3.N-testsuite.
conformance: $(VENV)/.installed ## Run CPython's own tests of executors and futures on ours
	$(BIN)/python tests/conformance/run.py
ecosystem: $(VENV)/.installed $(VENV)/.dev $(VENV)/.ecosystem ## Run other libraries on our executor, and the type checkers
	@# And what elsewhere is skipped without one of them.
	$(BIN)/python -m pytest tests/ecosystem tests/typing tests/docs/test_tasks.py::test_sentry -m "" $(PYTEST_ARGS)
servers: $(VENV)/.installed $(VENV)/.dev $(VENV)/.servers ## Run the tests of every server; make test has the quick ones
	@# Whatever needs one of these libraries is marked, and make test runs the others: .ci/run does so
	@# before they come, since what lacks a library of theirs has to work without.
	@# They wait most of the time; those of one file may share a server.
	$(BIN)/python -m pytest tests/servers tests/processes tests/celery tests/outbox -m servers \
		--numprocesses 3 --dist loadfile $(PYTEST_ARGS)
browser: $(VENV)/.installed $(VENV)/.dev $(VENV)/.browser ## Run the tests of the live page in Chromium
	@# Each with a browser, which waits most of the time.
	$(BIN)/python -m pytest tests/browser -m "" --numprocesses 2 $(PYTEST_ARGS)
screenshots: $(VENV)/.installed $(VENV)/.dev $(VENV)/.browser ## Take the pictures of docs/dashboard.md again; NAMES="overview queue" for some
	$(BIN)/python -m tests.browser.screenshots $(NAMES)
vendor: $(VENV)/.pip ## Get the scripts of the live page again from npm, as vendor.toml names them
	$(BIN)/python tests/browser/vendor.py
races: ## Race waits against ends and forks against load, and count what is lost
soak: ## Mix everything for ten minutes and add up; SECONDS=60 for less
soak-policies: ## A million tasks with every policy, mixed, and add up; COUNT=20000 for less
countdowns: ## 100,000 countdowns in random order: are they in order, how late; COUNT=1000 for less
races soak soak-policies countdowns: $(VENV)/.installed
	$(BIN)/python -W ignore::DeprecationWarning tests/$(subst -,_,$@).py $(SECONDS) $(COUNT)
kills: $(VENV)/.installed $(VENV)/.dev ## Kill the processes of a server 1,000 times and see what is lost; COUNT=100 for less
	$(BIN)/python -m tests.journal.kills $(or $(COUNT),1000)
kills-outbox: $(VENV)/.installed $(VENV)/.dev $(VENV)/.servers ## Kill processes between their commits and the journal 500 times; COUNT=100 for less, DATABASE=postgres
	$(BIN)/python -m tests.outbox.kills $(or $(COUNT),500) $(or $(DATABASE),sqlite)
kills-ticks: $(VENV)/.installed $(VENV)/.dev ## Kill the processes of durable jobs, and see that no tick is lost or doubled; SECONDS=600 for longer
	$(BIN)/python -m tests.journal.ticks $(or $(SECONDS),60)
soak-journal: $(VENV)/.installed $(VENV)/.dev ## An hour of durable tasks, kills and deploys; SECONDS=60 for less
	$(BIN)/python -m tests.journal.soak $(SECONDS)

layout: $(VENV)/.installed $(VENV)/.dev ## Store the journal's file in today's layout, with rows of every kind, for the tests
	$(BIN)/python -m tests.journal.layout
faults: ## Kill the journal, fail its system calls and cut the power, at every moment; takes half an hour
	cargo test --locked --package flask-delay-journal -- --ignored --skip actor --nocapture

# Peers come into an environment of their own, and so does the wheel of the commit BASE.
BENCH := $(VENV)-bench
BEFORE := $(if $(BASE),$(BENCH)-$(BASE))
PINNED := --constraint benchmarks/requirements.txt
bench: $(BENCH)/.installed $(BEFORE:=/.before) ## Measure ours and the peers; CASES="tasks memory" ROUNDS=2 for a part, BASE=a1b2c3d to compare
	cargo build --quiet --locked --release $(ENGINE) --example handover
	$(BENCH)/bin/python -m benchmarks --rounds $(or $(ROUNDS),5) $(if $(CASES),--cases $(CASES)) $(BEFORE:%=--before %/bin/python)
bench-pins: ## Pin the newest versions of the peers
	rm -rf $(BENCH)
	$(AGAIN) $(BENCH)/.installed PINNED=
	{ echo '# Made by `make bench-pins`: the peers and what the suite needs, to the last dependency.'; \
		$(BENCH)/bin/python -m pip freeze --exclude flask-delay; } > benchmarks/requirements.txt
	@touch $(BENCH)/.installed
instructions: $(VENV)/.installed ## Count instructions per task, compare with the kept figure; UPDATE=1 keeps it
	$(BIN)/python -m benchmarks --instructions $(if $(UPDATE),keep,compare)

lint: $(VENV)/.dev ## Check formats, clippy, macOS, ruff, types and stubs
	@# Two at a time: what is installed is linked by one thread for a minute. pip alone in .venv at a time.
	@$(AGAIN) -j2 lint-rust lint-apple lint-python
lint-rust: $(VENV)/.pip ## Check rustfmt and clippy; loom models and free threading too
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(LOOM) cargo clippy --locked $(CRATES) --profile loom --lib --test 'loom*' -- -D warnings
	$(FREE_THREADED) cargo clippy --locked --workspace --all-targets -- -D warnings
lint-apple: ## Check that it compiles for macOS, where Rust's targets for that are installed
	@for target in aarch64-apple-darwin x86_64-apple-darwin; do \
		[ -d "$$(env -u MAKEFLAGS -u MFLAGS rustc --print sysroot)/lib/rustlib/$$target/lib" ] \
			|| { echo "$$target NOT checked: rustup target add $$target"; continue; }; \
		echo "cargo check --target $$target"; \
		$(APPLE) cargo check --locked --workspace --target $$target || exit 1; \
	done
lint-python: $(VENV)/.installed $(VENV)/.dev ## Check ruff, mypy and the native module's stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest flask_delay._native
format: $(VENV)/.dev ## Format Rust and Python, apply ruff's safe fixes
	cargo fmt --all
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

build: $(VENV)/.dev ## Put the sdist and a wheel built from it into dist
	rm -rf dist
	$(BIN)/maturin sdist --out dist
	$(WHEEL) dist dist/*.tar.gz
audit: target/tools/bin/cargo-deny ## Check licences, bans, sources and, where it can, advisories
	$< --locked check licenses bans sources
	@if $< --locked fetch db >target/tools/fetch.log 2>&1; then $< --locked check advisories; \
		else echo 'advisories NOT checked: their database could not be fetched (target/tools/fetch.log)'; fi
groups: $(addprefix $(VENV)/.,dev browser ecosystem servers) ## Install what all the tests need
constraints: ## Pin the newest of everything tests and lint need
	rm -rf $(VENV)-fresh
	$(AGAIN) VENV=$(VENV)-fresh CONSTRAINTS=/dev/null groups
	{ echo '# Made by `make constraints`: what the Makefile installs, to the last dependency.'; \
		$(VENV)-fresh/bin/python -m pip freeze --all --exclude setuptools; } > $(CONSTRAINTS)
	rm -rf $(VENV)-fresh
clean: ## Remove all that these targets made
	rm -rf $(VENV) $(VENV)-* target dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests examples benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# Files that say what an environment has: pip, the dependency groups of pyproject.toml, the package.
$(VENV)/.pip: $(CONSTRAINTS)
	python=$$(sh tests/interpreters/find.sh $(PYTHON)) && "$$python" -m venv --clear $(VENV)
	@# The pip of venv may be too old for a constraint on what it builds with.
	$(PIP) install --quiet --constraint $(CONSTRAINTS) --upgrade pip
	@touch $@
$(VENV)/.dev $(VENV)/.browser $(VENV)/.ecosystem $(VENV)/.servers: $(VENV)/.%: $(VENV)/.pip pyproject.toml
	$(INSTALL) --quiet --group $*
	@touch $@
# Not editable, for tests too: they meet the files a user gets, and the wheel's contents are tested.
# Cargo keeps what it built, so a change in Python alone costs seconds. -L: one module is a link.
$(VENV)/.installed: $(VENV)/.pip $(shell find -L src python -type f -not -name '*.pyc') \
		build.rs Cargo.toml Cargo.lock pyproject.toml README.md LICENSE
	@command -v cargo >/dev/null || { echo 'cargo not found; install Rust first' >&2; exit 2; }
	$(INSTALL) .
	@touch $@
$(BENCH)/.installed: $(VENV)/.installed benchmarks/requirements.txt benchmarks/install.py $(wildcard benchmarks/peers/*.py)
	@test -x $(BENCH)/bin/python || $(BIN)/python -m venv --clear $(BENCH)
	rm -rf target/bench
	$(WHEEL) target/bench .
	$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install --force-reinstall $(PINNED) target/bench/*.whl
	$(BENCH)/bin/python -m benchmarks.install $(PINNED)
	@touch $@
$(BENCH)-%/.before: | $(VENV)/.pip
	rm -rf target/before && mkdir -p target/before
	git archive $* | tar -x -C target/before
	$(WHEEL) target/before/dist ./target/before
	$(BIN)/python -m venv --clear $(BENCH)-$*
	$(BENCH)-$*/bin/python -m pip --disable-pip-version-check --quiet install $(PINNED) gunicorn target/before/dist/*.whl
	@touch $@
# --root and the version: the machine's own tools neither matter nor change.
target/tools/bin/cargo-deny:
	cargo install cargo-deny --locked --version 0.20.2 --root target/tools
