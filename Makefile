# make demo       set everything up and run the main job on synthetic slides
# make test       set everything up and pass the tests
# make test-all   with the slow tests too
# make lint       ruff and mypy
#
# TORCH is the PyTorch to install: a CPU build here. For CUDA see docs/installation.md.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One process a core, each computing on one: two that share both would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all lint install clean

demo: install
	$(BIN)/comel demo --out demo

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints/cpu.txt
	@echo "setting up $(VENV): PyTorch for the CPU and what comel needs, about 3 minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)" -c constraints/cpu.txt
	$(PIP) install -e ".[dev]" -c constraints/cpu.txt
	@touch $@

clean:
	rm -rf $(VENV) demo
