# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*.c csrc/*.h) setup.py

# Where `make install` puts things.
PREFIX ?= /opt/qhybridd
BINDIR ?= /usr/local/bin
UNITDIR ?= /usr/local/lib/systemd/system
CONFDIR ?= /etc/qhybridd
UNITS := qhybridd.service qhybridd-guard.service qhybridd-sleep.service nftables.service.d/qhybridd.conf

.PHONY: help demo test install check lint types unit coverage sanitize live kernel faults soak bench codes codes-table lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.stamps/system: deploy/install-deps
	@bash deploy/install-deps
	@mkdir -p .stamps && touch $@

.stamps/venv: .stamps/system requirements.lock pyproject.toml $(NATIVE)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked Python packages into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: .stamps/venv ## run two gateways, two tunnels and a cut of the control channel, live
	@$(BIN)/qhybridd demo

# A make of its own for each part: where liboqs is, is looked up when a make starts.
test: .stamps/venv ## every test that this machine can run (as root: network namespaces)
	@$(MAKE) --no-print-directory liboqs-if-possible
	@$(MAKE) --no-print-directory lint types coverage sanitize
	@$(MAKE) --no-print-directory live
	@$(MAKE) --no-print-directory kernel

# A virtual environment of its own with the locked packages that the daemon needs, and nothing of the tests.
install: ## the daemon into PREFIX=/opt/qhybridd, its command, units and configuration directory (as root)
	@bash deploy/install-deps gateway
	@rm -rf build/lib* build/temp* build/bdist*
	@umask 022 && set -e; \
	echo "installing into $(PREFIX)"; \
	test -x $(PREFIX)/bin/python || $(PYTHON) -m venv $(PREFIX); \
	pip="$(PREFIX)/bin/pip --quiet --disable-pip-version-check install"; \
	$$pip --require-hashes --requirement requirements-run.lock; \
	$$pip --no-deps --no-build-isolation .; \
	install -d -m 0755 $(CONFDIR) $(BINDIR) $(UNITDIR) $(PREFIX)/share/doc/qhybridd; \
	install -m 0644 README.md CHANGELOG.md docs/*.md configs/*.toml $(PREFIX)/share/doc/qhybridd; \
	ln -sfn $(PREFIX)/bin/qhybridd $(BINDIR)/qhybridd; \
	install -d -m 0755 $(UNITDIR)/nftables.service.d; \
	for unit in $(UNITS); do sed 's|/opt/qhybridd|$(PREFIX)|g' systemd/$$unit > $(UNITDIR)/$$unit; done; \
	if test -d /run/systemd/system; then systemctl daemon-reload; fi
	@echo "installed; next: $(BINDIR)/qhybridd keygen"

check: lint types unit ## the fast inner loop: lint, types, unit tests

lint: .stamps/venv
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .stamps/venv
	@$(BIN)/mypy

# One worker for each core; the tests of a module, which share what they made, stay together. WORKERS=0 runs them in one.
WORKERS ?= auto
PARALLEL = -n $(WORKERS) --dist loadscope

unit: .stamps/venv
	@$(BIN)/pytest -q $(PARALLEL) tests/unit

coverage: .stamps/venv ## unit and pair tests, and the share of branches that they take
	@mkdir -p build
	@$(BIN)/pytest -q $(PARALLEL) tests/unit tests/pairs --cov --cov-report=json:build/coverage.json --cov-report=
	@$(BIN)/python -m tests.branches build/coverage.json 95 qhybridd/protocol qhybridd/crypto qhybridd/policy.py

# Into a tree of its own, so that the module of the virtual environment stays as it is. With the malloc of the C library,
# or else the bounds of small Python objects would not be seen.
SANITIZED := build/sanitized
sanitize: .stamps/venv ## the kernels and distillation under AddressSanitizer and UndefinedBehaviorSanitizer
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	@cp -r qhybridd csrc docs tests tools setup.py pyproject.toml README.md $(SANITIZED) && rm -f $(SANITIZED)/qhybridd/_native*.so
	@cd $(SANITIZED) && QHYBRIDD_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	@cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
	  $(CURDIR)/$(BIN)/python -m pytest -q $(PARALLEL) -p no:cacheprovider --hypothesis-profile=short \
	  tests/unit/test_kernel_*.py tests/unit/test_distill_*.py tests/unit/test_optics_*.py

live: .stamps/venv ## real daemons, devices and packets in network namespaces; prints what it measured
	@$(BIN)/pytest -raP tests/netns

faults: .stamps/venv ## every fault on the real kernel, and the table of docs/faults.md from what was measured
	@rm -f build/faults.jsonl
	@bash deploy/install-deps machine
	@failed=0; \
	$(BIN)/python -m tests.machines.run -raP tests/kernel/test_faults.py || failed=1; \
	$(BIN)/pytest -raP -p no:cacheprovider tests/machines || failed=1; \
	$(BIN)/python -m tests.kernel.fault_table && exit $$failed

# K picks files or tests: make kernel K="tests/kernel/test_times.py -k expiry". Without it the tests that mostly wait go
# first, two at a time; those that measure, and those whose daemons have deadlines, run alone.
KERNEL_TOGETHER := $(wildcard tests/kernel/test_xfrm_*.py tests/kernel/test_guard*.py) \
  tests/netns/test_wireguard_target.py tests/netns/test_guard.py tests/netns/test_guard_others.py
KERNEL_ALONE := $(filter-out $(KERNEL_TOGETHER),$(wildcard tests/kernel/test_*.py))
kernel: .stamps/venv ## the tests that need a kernel with WireGuard and ESP, in an emulated machine if this one lacks them
	@bash deploy/install-deps machine
	@$(BIN)/python -m tests.machines.run -raP \
	  $(or $(K),-n 2 --dist worksteal $(KERNEL_TOGETHER) --then -raP -m "not long" $(KERNEL_ALONE))
	@$(if $(K),:,$(BIN)/pytest -raP -p no:cacheprovider tests/machines)

soak: .stamps/venv ## half an hour: ten ordinary rotations of the kernel's WireGuard under traffic, nothing lost
	@bash deploy/install-deps machine
	@$(BIN)/python -m tests.machines.run --module tests.netns.soak

bench: .stamps/venv ## figures for every hot stage
	@$(BIN)/python -m bench

codes: .stamps/venv ## build the LDPC codes and measure them anew (hours; docs/codes.md)
	@$(BIN)/python -m tools.codes construct
	@$(BIN)/python -m tools.codes measure

codes-table: .stamps/venv ## measure how often frames fail, and write the table into docs/codes.md
	@$(BIN)/python -m tools.codes table

include deploy/liboqs.mk

COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --python-version 3.11 pyproject.toml

lock: ## renew both requirements files from pyproject.toml
	@$(BIN)/pip install --quiet uv
	@$(COMPILE) --upgrade --extra dev --extra plot -o requirements.lock
	@$(COMPILE) --extra build --constraints requirements.lock -o requirements-run.lock

clean: ## remove what the build made
	@rm -rf $(VENV) .stamps build *.egg-info qhybridd/_native*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
