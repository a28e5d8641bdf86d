# Each target sets up what it needs on first use: a virtual environment in .venv with the tested set of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
READY := $(VENV)/.ready
OLDEST := .venv-oldest

# Two test processes with one thread each: faster on small machines than one process with all threads.
PYTEST_OPTIONS := -n 2 --dist loadfile

# Threads that wait soon give their core away: beside other work, spinning ones slow a small machine down fivefold.
export GOMP_SPINCOUNT := 5000

.PHONY: help demo test contract test-oldest timm-tests bench lint format clean

help:
	@echo "make demo [SEED=0]   train on scanned digits, classify and retrieve unseen ones (3 minutes), report in runs/demo"
	@echo "make test            the test suite"
	@echo "make contract        the contract tests, every registered model at full size"
	@echo "make test-oldest     the test suite on the oldest supported versions (an environment of its own)"
	@echo "make timm-tests      timm's own model tests on our models; fetches them with pip (8 minutes)"
	@echo "make bench           timings of kernels and models against rivals, checked for correctness first (20 minutes)"
	@echo "make lint            ruff and mypy"

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about 3 minutes and 6 GB, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off --upgrade pip
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[train,clip,export,seg,det,dev]'
	$(BIN)/python -m vrwkv.ops.cpu_runtime.precompile
	@touch $(READY)

demo: $(READY)
	$(BIN)/python tools/train_clip.py --config configs/clip/digits_nano.yaml run.seed=$(SEED) run.overwrite=true

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "not whole"

contract: $(READY)
	$(BIN)/python -m pytest tests/contract

test-oldest:
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints-oldest.txt -e '.[train,clip,dev]'
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(PYTEST_OPTIONS) -m "not whole"

timm-tests: $(READY)
	@rm -rf $(VENV)/timm-source && mkdir -p $(VENV)/timm-source
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest $(VENV)/timm-source \
		timm==$$($(BIN)/python -c "import timm; print(timm.__version__)")
	tar -xzf $(VENV)/timm-source/timm-*.tar.gz -C $(VENV)/timm-source --strip-components 1
	$(BIN)/python tests/timm_suite/run.py $(VENV)/timm-source/tests/test_models.py

# On idle cores, threads that spin between ops are what users have by default.
bench: $(READY)
	env -u GOMP_SPINCOUNT $(BIN)/python benchmarks/cpu.py --check
	env -u GOMP_SPINCOUNT $(BIN)/python benchmarks/crossovers.py
	env -u GOMP_SPINCOUNT $(BIN)/python benchmarks/export.py
	env -u GOMP_SPINCOUNT $(BIN)/python benchmarks/cpu.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
