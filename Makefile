# Everything runs in $(VENV), which is made on first use and brought up to date when a requirement changes.
#   make PYTHON=python3.12 ...                    another interpreter
#   make TORCH_INDEX_ARGS='--index-url URL' ...   PyTorch from another index, such as its CPU-only builds

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX_ARGS ?=
BENCH_RUNS ?= 5
# Tables of measured runs for `make validate`.
DATA ?= $(wildcard ../shared/data/*.csv) $(wildcard tests/validation/*.csv)

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install
REQUIREMENTS := $(wildcard requirements/*.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint lint-style lint-format lint-spelling lint-imports lint-types plans bench validate docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/runtime.stamp ## Install, plan GPT-3 for 96 GPUs, then plan and train a small GPT on this machine
	$(BIN)/gptplan solve --model gpt3 --gpus 96
	$(BIN)/gptplan solve --model gpt2-tiny --gpu local-cpu --gpus 2
	$(BIN)/gptplan run plans/gpt2-tiny-2xlocal-cpu.plan

# A file to a worker, as its tests share what they import; those that wait for processes leave a core to the others.
test: lint ## Everything a change has to pass: lint, types, import directions, all tests, docs, wheel
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# One target a tool, which the hooks of .pre-commit-config.yaml call one by one.
lint: lint-style lint-format lint-spelling lint-imports lint-types ## Style, spelling, import directions and types

lint-style: $(VENV)/dev.stamp
	$(BIN)/ruff check --quiet --output-format concise .

lint-format: $(VENV)/dev.stamp
	$(BIN)/ruff format --quiet --check .

lint-spelling: $(VENV)/dev.stamp
	$(BIN)/codespell

lint-imports: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-logo

lint-types: $(VENV)/dev.stamp
	$(BIN)/mypy

plans: $(VENV)/planner.stamp ## Solve the questions of plans/questions.toml again; writes plans/ and docs/plans.md
	$(BIN)/python -m plans.make
	$(BIN)/python -m docs.plans_page

bench: $(VENV)/planner.stamp ## Wall time and peak memory of start-up and of solving; writes docs/solver_scaling.md
	$(BIN)/python benchmarks/startup_and_solve.py --runs $(BENCH_RUNS)
	$(BIN)/python -m benchmarks.solver_scaling --runs $(BENCH_RUNS)

validate: $(VENV)/planner.stamp ## Replay measured runs, print the errors and write docs/validation.md; DATA names the tables
	$(BIN)/gptplan validate $(DATA)
	$(BIN)/python -m docs.validation_page $(DATA)

docs: $(VENV)/planner.stamp ## Write the pages that are generated from code
	$(BIN)/python -m docs.rules_page
	$(BIN)/python -m docs.specs_page
	$(BIN)/python -m docs.facts_page
	$(BIN)/python -m docs.job_page
	$(BIN)/python -m docs.cli_page
	$(BIN)/python -m docs.check_page
	$(BIN)/python -m docs.plans_page
	$(BIN)/python -m docs.schedules_page
	$(BIN)/python -m docs.speed_page tests/validation/h200_runs.csv tests/validation/library_runs.csv benchmarks/against_pytorch.csv

clean: ## Remove the environment, caches and builds; plans and runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/planner.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("gptplan needs Python 3.11 or newer; name one: make PYTHON=python3.12" \
		if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV): planner"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@

# PyTorch first, and on its own: what comes after finds its requirement met.
$(VENV)/runtime.stamp: $(VENV)/planner.stamp $(REQUIREMENTS)
	@echo "setting up $(VENV): PyTorch, Colossal-AI and what they need"
	@$(PIP_INSTALL) $(TORCH_INDEX_ARGS) --requirement requirements/torch.txt
	@$(PIP_INSTALL) --requirement requirements/build.txt
	@$(PIP_INSTALL) --editable '.[runtime]'
	@$(PIP_INSTALL) --no-deps --no-build-isolation --requirement requirements/colossalai.txt
	@touch $@

# Colossal-AI's requirements are left out on purpose; pip would warn of each.
$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo "setting up $(VENV): tools of development"
	@$(PIP_INSTALL) --no-warn-conflicts --editable '.[dev]'
	@$(BIN)/python -m planner.launch.nvme_build || echo "      its tests are skipped" >&2
	@touch $@
