# Two commands on a fresh machine: `make run` and `make test`. Both make .venv first, and are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint clean

run: $(VENV)/runtime.installed
	$(BIN)/python run_pipeline.py

test: $(VENV)/dev.installed
	$(BIN)/python -m pytest

lint: $(VENV)/dev.installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: its pin is the CPU build where one is offered, and what follows finds it there.
$(VENV)/runtime.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.installed: requirements-dev.txt $(VENV)/runtime.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)
