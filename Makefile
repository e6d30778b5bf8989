# `make demo` and `make test` work from a clean clone; both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Models, data and experts that the demo and the benchmarks make; kept out of git.
export UNMERGEABLE_CACHE ?= $(CURDIR)/.cache
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test check test-ray lint docs site package bench field clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt unmergeable/gauge/_kernel.c
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or later: make PYTHON=..." >&2; exit 1; }
	@echo "installing into $(VENV); torch alone is 200 MB, so this takes a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,signing,dev,docs]'
	touch $@

demo: setup
	$(BIN)/unmergeable demo

test: setup lint
	$(BIN)/python -m pytest -n 2

# The fast loop: a part of the tests, on seven architectures; tests/conftest.py says which.
check: setup lint
	$(BIN)/python -m pytest -n 2 --fast

# Ray is large, and its cluster takes a minute: not a part of `make test`.
test-ray: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest tests/executors/test_ray.py tests/auditing/test_workers.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m unmergeable.architectures.table docs/architectures.md
	$(BIN)/python -m unmergeable.bench.registry_tables docs
	$(MAKE) site

# The pages as they stand, into site/; a broken link or an unknown name stops it.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Wheel and sdist, each in clean environments without a compiler. PYTHONS="python3.12 ..." chooses.
package: setup
	BUILDER=$(BIN)/python .ci/package

bench: setup
	$(BIN)/python benchmarks/copy_speed.py

# Hours, in pieces if need be: it goes on where it stood. ARGS="--suite encoder --quick" is shorter.
field: setup
	$(BIN)/python benchmarks/field $(ARGS)

clean:
	rm -rf .venv .cache build dist site *.egg-info
