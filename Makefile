# Targets set up what they need in .venv; once it is there, this takes no time.

PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
TORCH := torch==2.13.0
CONSTRAINTS := envs/constraints.txt
# Compiling every module takes longer than compiling the imported ones at their first import.
PIP_INSTALL := python -m pip install --no-compile $(if $(UNPINNED),,--constraint $(CONSTRAINTS))

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # because it makes every process compile the package again

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-spawn test-workflow page docs lint lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: demo/config.yaml  ## synthesise a slide, find its nuclei, score them
	snakemake --cores $(CORES) --configfile demo/config.yaml
	muse evaluate demo/results/demo/nuclei.parquet --truth demo/truth.csv
	@echo "The slide is synthetic; scores on real tissue are in docs/results.md."
	@echo "Report:     demo/results/report.html"
	@echo "For QuPath: demo/demo.svs with demo/results/demo/nuclei.geojson.gz"

test: $(VENV)/develop.stamp  ## run the tests that take minutes (UNPINNED=1: with the newest packages, in a new .venv)
	pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/develop.stamp  ## run the tests that take longer
	pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-spawn: $(VENV)/develop.stamp  ## run the tests without forking processes, as on macOS and Windows
	MUSE_START_METHOD=spawn pytest -n 2 --dist loadfile --no-loadscope-reorder

test-workflow: $(VENV)/run.stamp  ## check the rules with snakemake --lint and run them on a small slide
	.test/run --cores $(CORES)

page:  ## build web/muse.html, which finds nuclei in a browser (needs Node.js 20 or later)
	cd web && npm ci --no-audit --no-fund && npm test && npm run build

docs: $(VENV)/develop.stamp  ## build the documentation site in site/
	mkdocs build --strict

lint: $(VENV)/develop.stamp  ## check style
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow

lock: $(VENV)/run.stamp  ## choose the newest versions of all packages for envs/constraints.txt
	python -m pip install --quiet uv
	echo "$(TORCH)" | uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --no-annotate \
	    --no-header --quiet --constraint - --output-file $(CONSTRAINTS)
	uv pip compile pyproject.toml --extra cpu --extra workflow --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
	    --no-annotate --no-header --quiet --generate-hashes --constraint $(CONSTRAINTS) --output-file envs/hashes.txt

clean:  ## remove what the demo wrote
	rm -rf demo

demo/config.yaml: | $(VENV)/run.stamp
	muse demo-slide demo --threads $(CORES)

# Only training and the tests need torch. It is installed before the other packages, which would otherwise choose a
# different build.
$(VENV)/run.stamp: pyproject.toml $(CONSTRAINTS)
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing the packages that run models into $(VENV)"
	@$(PIP_INSTALL) -e ".[cpu,workflow]"
	@touch $@

$(VENV)/develop.stamp: pyproject.toml $(VENV)/run.stamp
	@echo "installing PyTorch and the packages for training and tests into $(VENV)"
	@$(PIP_INSTALL) $(TORCH)
	@$(PIP_INSTALL) -e ".[cpu,train,dev]"
	@touch $@
