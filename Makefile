# Two commands on a fresh machine: `make run` and `make test`. Both make .venv first, and are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when first imported: few of those that are installed ever are.
PIP := python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: run test quick thorough oldest coverage faults fuzz mutants soak lint docs lock audit release browser clean

run: $(VENV)/runtime.installed
	$(BIN)/python run_pipeline.py

# A process per core, each computing in one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/dev.installed
	$(PYTEST)

# All but the tests that start processes, servers or a browser, or train a model: about two minutes.
quick: $(VENV)/dev.installed
	$(PYTEST) -m "not slow and not thorough"

# The core tests with the oldest releases allowed, in an environment of its own. Warnings of old releases are no errors.
OLDEST := texts vectorizer encoder pooling packed logistic stacking token_level manifest checkpoint_modules
oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/$(PIP) "$$(grep '^torch==' requirements-oldest.txt)"
	$(VENV)-oldest/bin/$(PIP) -r requirements-oldest.txt
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -n auto -W default $(OLDEST:%=tests/test_%.py)

# Every test, the longest too: before a release, and after work on executors or Dask.
thorough: $(VENV)/dev.installed
	$(PYTEST) -m ""

coverage: $(VENV)/dev.installed
	$(PYTEST) --cov=pipeline --cov-branch --cov-report=term:skip-covered

# Every call that reaches the disk fails once, and kills once: half an hour.
faults: $(VENV)/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fault_loops

# Each reader of strangers' bytes for so many seconds, by atheris, which has wheels for Linux.
SECONDS ?= 60
fuzz: $(VENV)/dev.installed
	$(BIN)/$(PIP) atheris==3.0.0
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzzing --seconds $(SECONDS) --corpus fuzzing

# Every small change of the files named, and whether a test sees it: 1 to 3 s for a change.
FILES ?= pipeline/texts.py pipeline/files.py pipeline/vector_store.py pipeline/bert/packed.py
mutants: $(VENV)/dev.installed
	$(BIN)/$(PIP) mutmut==3.8.1
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation $(FILES)

# Threads and processes predict from one artifact that is replaced 200 times; machines of many steps.
soak: $(VENV)/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -s -k any_order \
	  tests/test_machines.py tests/test_cache_faults.py

lint: $(VENV)/dev.installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m benchmarks.size

# requirements.lock: all that requirements.txt needs, on every system, with the hash of every file.
lock: $(VENV)/release.installed
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" requirements.txt -o requirements.lock

# Known holes of what is pinned. --strict: where the advisories cannot be reached, it fails.
audit: $(VENV)/release.installed
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

# The files of a release, checked, and the list of their parts; nothing is uploaded.
release: $(VENV)/release.installed
	@version=$$($(BIN)/python -c "import pipeline; print(pipeline.__version__)") && \
	  grep -q "^## \[*$$version" CHANGELOG.md || { echo "CHANGELOG.md has no heading for version $$version."; exit 1; }
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/sbom.json requirements.lock
	cd dist && sha256sum * > SHA256SUMS

# The site, with every example run, into build/site: minutes the first time, and no network.
docs: $(VENV)/docs.installed
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/site
	$(BIN)/python docs/check_links.py build/site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: its pin is the CPU build where one is offered, and what follows finds it there.
$(VENV)/runtime.installed: requirements.txt | $(BIN)/python
	$(BIN)/$(PIP) "$$(grep '^torch==' requirements.txt)"
	$(BIN)/$(PIP) -r requirements.txt
	touch $@

$(VENV)/dev.installed: requirements-dev.txt $(VENV)/runtime.installed
	$(BIN)/$(PIP) -r requirements-dev.txt
	touch $@

$(VENV)/release.installed: requirements-release.txt | $(BIN)/python
	$(BIN)/$(PIP) -r requirements-release.txt
	touch $@

$(VENV)/docs.installed: requirements-docs.txt $(VENV)/runtime.installed
	$(BIN)/$(PIP) -r requirements-docs.txt
	touch $@

# For the tests of the report in a real browser and with other fonts; without them they are skipped, and say so.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  timeout 300 sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	    chromium fonts-liberation fonts-noto-core >/dev/null'; } || \
	  echo "No Chromium could be installed; install one yourself for the tests of the report in a browser."

clean:
	rm -rf $(VENV) $(VENV)-oldest
