# `make demo` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test slow lint types imports unit docs format clean

help:
	@echo "make demo     install, then run the demo (two minutes)"
	@echo "make test     install the test extra, then every check"
	@echo "make slow     the tests that take minutes"
	@echo "make docs     build the documentation into site/"
	@echo "make format   format the code"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test-ready: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.demo-ready

demo: $(VENV)/.demo-ready
	$(BIN)/temperance demo

test: lint types imports docs unit

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test-ready
	$(BIN)/mypy

imports: $(VENV)/.test-ready
	$(BIN)/lint-imports

# Two processes of one thread each; a file's tests stay together, since they share what is slow.
unit: $(VENV)/.test-ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n 2 --dist loadfile

slow: $(VENV)/.test-ready
	$(BIN)/pytest -m slow

docs: $(VENV)/.test-ready
	$(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.test-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache
