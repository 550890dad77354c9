# Everything from a bare clone: needs make and Python 3.11 or later; `make test` also apt and root for its kernel tests.
#
#   make demo    see it work: no USB hardware, no root            make bench   transfers per second, against the floor
#   make check   format, lint, types, quick tests                 make soak    the kernel proofs at full counts
#   make test    everything, a real Linux kernel included         make docs    write the generated parts of docs/ anew
#   make clean   remove what these made

SUITABLE := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p $(SUITABLE) && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest
ALONE := umockdev or alone# tests that measure time, or need the machine to themselves

# Tests start Python a thousand times, with modules that are compiled once, wherever an environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo check test bench soak docs clean venv
.DELETE_ON_ERROR:

demo: $(VENV)/base
	@$(BIN)/usbferry demo

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src
	$(PYTEST) -q -n auto --hypothesis-profile=quick -m "not (kernel or slow or $(ALONE))"

# Without root or apt the kernel tests are skipped, and say what would install them; USBFERRY_REQUIRE_KERNEL=1 makes
# that a failure. What needs no guest, and then the guests, run on every core; the kernel's tests are all in one folder, so
# that no other is collected for them. An emulated machine's clocks and races are not those of a real one: a test that fails
# in a guest is run once more by itself. What one part finds, the others run all the same. Tests that take long are named
# while they run.
AGAIN := { [ $$? = 1 ] && $(PYTEST) -v --last-failed -m kernel; }
test: $(VENV)/dev
	$(BIN)/python tests/kernel/rig.py setup
	@$(PYTEST) -n auto -m "not (kernel or $(ALONE))"; quick=$$?; \
	$(PYTEST) tests/kernel -v -n auto --dist loadscope -m "not ($(ALONE))" || $(AGAIN); guests=$$?; \
	$(PYTEST) -v -m "$(ALONE)" || $(AGAIN) || exit; \
	[ $$quick = 0 ] || { echo "quick tests failed: see their summary above" >&2; exit $$quick; }; \
	[ $$guests = 0 ] || { echo "tests in guests failed: see their summary above" >&2; exit $$guests; }

soak: $(VENV)/dev
	$(BIN)/python tests/kernel/rig.py setup
	USBFERRY_SOAK=1 $(PYTEST) -m "kernel or slow or $(ALONE)"

bench: $(VENV)/base
	@command -v $${CC:-cc} >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { \
		ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev </dev/null; }
	$(BIN)/python bench/run.py
	$(BIN)/python bench/media.py

docs: $(VENV)/base
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/dev  ## what an editor wants

# The environment: `base` is what a user installs, `dev` adds the tools. Each is remade when pyproject.toml changes.
# Debian splits ensurepip off into python3-venv: where we may, we install it.
$(VENV)/base: pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && command -v python3 >/dev/null; then \
		ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv </dev/null; \
		python=python3; \
	fi; \
	if ! $${python:-false} $(SUITABLE); then \
		echo "usbferry needs Python 3.11 or later with venv (Debian: apt-get install python3-venv);" \
			"name another one with: make PYTHON=/path/to/python3" >&2; exit 2; \
	fi; \
	$(BIN)/python $(SUITABLE) || $$python -m venv --clear $(VENV)
	$(PIP) install -e .
	@touch $@

$(VENV)/dev: $(VENV)/base
	@$(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' >$(VENV)/dev.txt
	$(PIP) install -r $(VENV)/dev.txt
	@touch $@
