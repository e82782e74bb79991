# One entry for every chore; see CONTRIBUTING.md. All targets may be run again at any time.
#   make install PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BENCH ?=
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

BIN := .venv/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
STAMP := .venv/.installed
# tests that start processes, run the docs or train: left out by `make fast`
SLOWER := tests/test_docs.py tests/test_plugin_install.py tests/test_recipes.py tests/test_train.py \
	tests/cli

.PHONY: install demo test fast slow soak lint docs peers bench bench-vad ci

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) \
		-e '.[dev]' $(foreach plugin,$(PLUGINS),-e $(dir $(plugin)))
	@touch $@

demo: install
	@$(BIN)/speechkit demo

test: install
	@$(BIN)/pytest -n $(WORKERS)

fast: install
	@$(BIN)/pytest -n $(WORKERS) $(addprefix --ignore=,$(SLOWER))

# pytest ends with 5 where a marker selects nothing
slow soak: install
	@$(BIN)/pytest -m $@ || [ $$? -eq 5 ]

lint: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: install
	@$(BIN)/python docs/generate.py

# silero-vad and webrtcvad, which the benchmarks stand beside
peers: install
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[bench]'

# speed; BENCH="offline streaming --rounds 5" runs a part of it
bench: peers
	@$(BIN)/python -m benchmarks.run $(BENCH)

# quality, on the dev scenes of recipes/vad
bench-vad: peers
	@$(BIN)/python benchmarks/vad.py

ci: lint test
