# The one task vocabulary: people, hooks and CI use the same words.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL ?= card_fraud
DAYS ?= 90
ARGS ?=
BASE ?= python:3.11-slim-bookworm
TAG ?= latest
export OMP_NUM_THREADS ?= 1
# Dagster takes dagster.yaml from the repository root, whatever the caller has set.
unexport DAGSTER_HOME
# Hundreds of processes would compile all that they import.
unexport PYTHONDONTWRITEBYTECODE
export DAGSTER_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

.PHONY: run test check ui serve stop selftest prove clean setup lock images sbom docker-test stack stack-down

run: $(READY)  ## Set up, simulate, run the main job, end with a scored request
	@$(BIN)/mlcicd simulate --days $(DAYS)
	@$(BIN)/mlcicd serve --detach
	@$(BIN)/dagster job execute -m mlcicd_assets.definitions -j $(MODEL)_cicd
	@echo "The server goes on running; stop it with 'make stop'. Look around with 'make ui'."
	@$(BIN)/mlcicd score $(MODEL)

test: $(READY)  ## Everything that fits six minutes
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not ci and not real_data and not prove and not docker" $(ARGS)

check: $(READY)  ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/dg check yaml

ui: $(READY)  ## The Dagster UI, with schedules and sensors, on http://127.0.0.1:3000
	@$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1

serve: $(READY)  ## The scoring server in the foreground
	@$(BIN)/mlcicd serve

stop: $(READY)  ## Stop the detached scoring server
	@$(BIN)/mlcicd stop

selftest: $(READY)  ## Planted bad models and data, and good ones, through every gate
	@$(BIN)/python -m mlcicd_assets_tests.selftest $(ARGS)

prove: $(READY)  ## The long campaigns; writes docs/proof.md
	@$(BIN)/python benchmarks/prove.py $(if $(ROW),--row $(ROW))

clean:  ## Forget the environment and all local data
	@test ! -x $(BIN)/mlcicd || $(BIN)/mlcicd stop
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
	find data -mindepth 1 ! -name README.md -delete

setup: $(READY)  ## Create the environment from requirements.lock

$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) from requirements.lock (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || { sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt; }
	@$(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

lock: $(READY)  ## Resolve pyproject.toml again, and what the images hold in the same versions
	$(COMPILE) --group dev --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --constraints requirements.lock --extra postgres pyproject.toml -o deploy/pipeline.lock
	$(COMPILE) --constraints requirements.lock --group serving -o deploy/serving.lock
	$(COMPILE) --constraints requirements.lock --group build -o deploy/build.lock

# BuildKit comes as buildx, or with the command line that Debian ships. BUILD_ARGS: for `docker build`.
BUILD = $(shell docker buildx version >/dev/null 2>&1 && echo docker buildx build --load || echo DOCKER_BUILDKIT=1 /usr/bin/docker build)

images:  ## The images mlcicd-pipeline and mlcicd-serving, tagged TAG, on BASE
	@for image in pipeline serving; do \
	  $(BUILD) --file deploy/Dockerfile --target $$image --tag mlcicd-$$image:$(TAG) --build-arg BASE=$(BASE) \
	    --build-arg REVISION="$$(git describe --always --abbrev=40 --dirty --exclude '*')" \
	    --build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
	    $${SSL_CERT_FILE:+--secret id=ca,src=$$SSL_CERT_FILE} $(BUILD_ARGS) . || exit 1; \
	done

sbom: $(READY)  ## What the images hold, as CycloneDX in dist/
	@mkdir -p dist
	@for image in pipeline serving; do \
	  $(BIN)/cyclonedx-py requirements deploy/$$image.lock --output-file dist/$$image.cdx.json; \
	done

stack: images  ## All of it on the Docker engine, until the sensor has released a version
	@deploy/stack.sh up

stack-down:  ## Remove the stack and all that it made
	@deploy/stack.sh down

docker-test: $(READY)  ## Build both images and test them on a Docker engine
	@.ci/docker_test.sh
