# make install | demo | test | test-long | lint | unit | browser | slurm | clean      (see README.md)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-long lint unit browser slurm clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" scripts/install.sh $(VENV)
	touch $@

demo: $(STAMP)
	$(BIN)/gradenc demo demo

test: $(STAMP) browser slurm
	$(MAKE) -j2 lint unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/draw_rooms.py --check

unit: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" --durations=60

test-long: $(STAMP) browser slurm
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

browser:
	scripts/browser.sh

slurm:
	scripts/slurm.sh

clean:
	rm -rf $(VENV) demo build *.egg-info
