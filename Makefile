# make demo       set everything up and run the main job on synthetic slides
# make test       set everything up and pass the tests
# make test-all   with the slow tests too
# make lint       ruff, the law of imports and mypy
# make settings   docs/settings.md, from the schemas
# make coverage   the tests again, counting which lines they run; below the floor in pyproject.toml it fails
# make docs       the documentation site, in site/
# make viewer     fetch what the pages of the service need, by npm; the others do it where npm is present
# make sbom       sbom.json: every package of the environment with its version and licence (CycloneDX)
#
# TORCH is the PyTorch to install: a CPU build here. For CUDA see docs/installation.md.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LIBRARIES := node_modules/.fetched
# One process a core, each computing on one: two that share both would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint coverage docs settings sbom install viewer clean

demo: install
	$(BIN)/comel demo --out demo

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo && $(BIN)/mypy

settings: install
	$(BIN)/python -m comel.app.settings_page > docs/settings.md

coverage: install
	$(PYTEST) -m "not slow" --cov --cov-report=term

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

sbom: install
	$(BIN)/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --output-reproducible --output-file sbom.json

install: $(INSTALLED) $(if $(shell command -v npm),viewer)

# The viewer works without them but for the slide itself, so a failed download stops nothing.
viewer:
	@$(MAKE) --no-print-directory $(LIBRARIES) || echo "the viewer shows no slides: its libraries could not be fetched"

$(LIBRARIES): package.json package-lock.json
	npm ci --loglevel=error
	@touch $@

$(INSTALLED): pyproject.toml constraints/cpu.txt
	@echo "setting up $(VENV): PyTorch for the CPU and what comel needs, about 3 minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)" -c constraints/cpu.txt
	$(PIP) install -e ".[dev]" -c constraints/cpu.txt
	@touch $@

clean:
	rm -rf $(VENV) demo node_modules site
