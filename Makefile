# `make demo` and `make test` each set up everything they need, in a virtual environment of their own.
# `make test-slow` runs the tests that `make test` leaves out: kills and processes at length, Ray, a thousand broken files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A test file a process; the networks of the tests are too small for more than one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: demo test test-slow browser weights lint format clean
demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

test: $(VENV)/installed
	$(PYTEST) -m "not slow"

# A browser for the slow tests of the page, which are skipped without one.
browser:
	command -v chromium || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } || \
		echo "no browser could be installed: the tests that drive the page will be skipped"

test-slow: $(VENV)/installed
	$(PYTEST) -m slow

# One process of one thread a core learns faster than one of several threads. Stop it at will: the same line goes on.
# `make weights RUN=runs/drawn RECIPE=recipes/drawn.yaml PROCESSES=2`; what ships is then in RUN/drawn.
RUN ?= runs/drawn
RECIPE ?= recipes/drawn.yaml
PROCESSES ?= $(shell nproc 2>/dev/null || sysctl -n hw.physicalcpu)
weights: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node $(PROCESSES) -m consistentid.training.drawn $(RECIPE) all \
		--out $(RUN) --workers $(PROCESSES)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
