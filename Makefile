# One entry for every chore; see CONTRIBUTING.md. All targets may be run again at any time.
#   make install PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BENCH ?=
AOT ?=
OMP_NUM_THREADS ?= 1
FUZZ_S ?= 1800
SEED ?= 0
MARCH ?= native
FUZZ ?=
export OMP_NUM_THREADS

BIN := .venv/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
STAMP := .venv/.installed
STAMP_DEV := .venv/.installed-dev
# tests that start processes, run the docs or train: left out by `make fast`
SLOWER := tests/test_docs.py tests/test_cookbook.py tests/test_plugin_install.py tests/test_recipes.py \
	tests/recipes/test_an4.py tests/train tests/cli tests/ops/test_triton.py

.PHONY: install install-dev demo test fast slow soak drawn coverage lowest lint types docs film screenshots site peers measure bench bench-vad triton-aot bench-cuda wasm \
	hashes plans wheel sbom fuzz sanitize ci

# speechkit with training, microphone and all audio formats, and the plugins of this repository
install: $(STAMP)

# and what its tests, checks and docs need
install-dev: $(STAMP_DEV)

$(STAMP): EXTRAS := train,mic,av
$(STAMP_DEV): EXTRAS := dev
$(STAMP) $(STAMP_DEV): pyproject.toml constraints.txt $(PLUGINS)
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) \
		-e '.[$(EXTRAS)]' $(foreach plugin,$(PLUGINS),-e $(dir $(plugin)))
	@touch $@

demo: install
	@$(BIN)/speechkit demo

test: install-dev
	@$(BIN)/pytest -n $(WORKERS)

fast: install-dev
	@$(BIN)/pytest -n $(WORKERS) $(addprefix --ignore=,$(SLOWER))

# pytest ends with 5 where a marker selects nothing
slow soak: install-dev
	@$(BIN)/pytest -m $@ || [ $$? -eq 5 ]

# the tests whose inputs hypothesis draws, under another seed
drawn: install-dev
	@$(BIN)/pytest -n $(WORKERS) -m "hypothesis and not slow and not soak and not gpu" \
		--hypothesis-profile=seeded --hypothesis-seed=$(SEED)

# the plans of the bundled models, after a change of the models or of what a plan is
plans: install-dev
	@for folder in speechkit/bundled/models/*/; do \
		$(BIN)/speechkit export $$folder --format native --out $${folder}plan.safetensors || exit; done
	@cd speechkit/bundled && sha256sum models/*/config.json models/*/*.safetensors > SHA256SUMS

# fails below the floor of pyproject.toml
coverage: install-dev
	@$(BIN)/pytest -n $(WORKERS) --cov --cov-report=term

# the core's tests with the oldest versions that pyproject.toml allows; their own warnings are no errors
lowest:
	@test -x .venv-lowest/bin/pip || $(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/pip install -q --disable-pip-version-check uv
	@.venv-lowest/bin/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct \
		--index-strategy unsafe-best-match $(PIP_ARGS) \
		-e '.[dev]' $(foreach plugin,$(PLUGINS),-e $(dir $(plugin)))
	@.venv-lowest/bin/pytest -n $(WORKERS) -W default tests

lint: install-dev types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/towncrier build --draft --version next > /dev/null
	@$(BIN)/hadolint Containerfile
	@$(BIN)/zizmor --offline --quiet .github
	@$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	@$(BIN)/check-jsonschema -q --builtin-schema vendor.citation-file-format CITATION.cff

# recipes are scripts, whose modules have the same names in each folder
types: install-dev
	@$(BIN)/mypy
	@for folder in recipes/*/; do MYPYPATH=$$folder $(BIN)/mypy $$folder*.py || exit; done

# what activations, norms and mixers cost, for docs/components.md and mixers.md; on an idle machine
measure: install-dev
	@$(BIN)/python -m benchmarks.measured
	@$(BIN)/python -m benchmarks.mixers

docs: install-dev
	@$(BIN)/python docs/generate.py

# the terminal of README.md, recorded anew
film: install-dev
	@cd docs && ../$(BIN)/python -m pictures.terminal

# docs/page.png, page_dark.png and page.webp; needs /usr/bin/chromium
screenshots: install-dev
	@$(BIN)/python docs/screenshots.py

# the docs as a site in build/site; needs no network. With --quiet, --strict would find nothing
site: install-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# silero-vad, webrtcvad and OpenVINO, with which the benchmarks compare
peers: install-dev
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[bench]'

# speed; BENCH="offline streaming --rounds 5" runs a part of it
bench: peers
	@$(BIN)/python -m benchmarks.run $(BENCH)

# quality, in the conditions of recipes/vad
bench-vad: peers
	@$(BIN)/python -m benchmarks.vad

# what the kernels for CUDA are compiled to; needs no card. AOT="--net marblenet --dtype float32"
triton-aot: install-dev
	@$(BIN)/python -m benchmarks.aot $(AOT)

# the engine for browsers, plugins/web/dist/speechkit.wasm; needs emcc 3.1.6
wasm:
	@$(MAKE) -s -C plugins/web

# tests and speed on a CUDA card
bench-cuda: install-dev
	@$(BIN)/pytest -m gpu tests/ops tests/streaming
	@$(BIN)/python -m benchmarks.cuda

# constraints-hashed.txt: what the extras of HASHED need, with the hash of each of its files
HASHED := train mic export numba

hashes: install-dev
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) uv
	@$(BIN)/uv pip compile pyproject.toml $(addprefix --extra ,$(HASHED)) -c constraints.txt -q \
		--generate-hashes --no-annotate --custom-compile-command 'make hashes' \
		--index-strategy unsafe-best-match $(PIP_ARGS) -o constraints-hashed.txt

# a wheel in dist/, on Linux with the compiled libraries; and its tests
wheel: install-dev
	@$(BIN)/python -m hatchling build -t wheel
	@$(BIN)/pytest -m slow tests/test_wheel.py

# a bill of materials (CycloneDX) of what is installed
sbom: install-dev
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) cyclonedx-bom
	@mkdir -p dist
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		-o dist/sbom.json $(BIN)/python
# mutated files for every reader and command; FUZZ="audio yaml" runs some
fuzz: install-dev
	@$(BIN)/python -m tests.fuzz $(FUZZ_S) $(FUZZ) --seed $(SEED)

# random shapes for every C++ file, built with ASan and UBSan; MARCH=x86-64-v3 for shorter registers
sanitize: install-dev
	@$(BIN)/python -m tests.fuzz.sanitize $(FUZZ_S) 0 $(MARCH)

ci: lint test
