# Each target sets up .venv by itself and needs only make and Python >= 3.11:   make demo   make test   make check
# Another interpreter: make demo PYTHON=python3.12 (after `make clean` if .venv exists already).

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin

# One thread per test worker: torch's own threads would fight for the same cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format bench docs clean

help:
	@echo "make demo    see where a gradient dies: the built-in experiment and a network on real data"
	@echo "make test    run the tests"
	@echo "make check   run all that continuous integration runs: format, lint, types, layers, tests"
	@echo "make format  format the code and apply safe lint fixes"
	@echo "make bench   measure what recording costs, beside other tools"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make clean   remove .venv and everything built"

demo: .venv/installed-demo
	$(BIN)/headwater demo

test: .venv/installed-test
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(MAKE) --no-print-directory test

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks

docs: .venv/installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of optional dependencies (and the sets it holds); a changed requirement installs again.
HELD_BY_bench := demo
HELD_BY_dev := demo docs test
HELD_BY_test := demo
.venv/installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]' -c constraints.txt
	@touch $(patsubst %,.venv/installed-%,$* $(HELD_BY_$*))

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headwater needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "'$(PYTHON)' cannot make virtual environments: install its venv package (Debian, Ubuntu: python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
