# Targets of pruned_controller. Plain `make` explains them.

PYTHON ?= python3
ARGS ?=
BUNDLE ?=

IN_VENV := . .venv/setup.sh &&

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench optimum frontier studies studies-quick soak docs \
	clean

help:
	@echo 'make setup   make .venv with everything in it; a second time at once (PYTHON=python3.11)'
	@echo 'make demo    plant, controller and pruner together, without ros2 launch (ARGS=--help);'
	@echo '             BUNDLE=pendulum_95, or a folder: that one instead of pruning'
	@echo 'make lint    ruff and mypy'
	@echo 'make test    lint, then the tests (ARGS="-k bundle -x")'
	@echo 'make bench   the planner against its floor and others (ARGS=--help); runs/bench'
	@echo 'make optimum the best return that the pendulum allows, beside which ours stands'
	@echo 'make docs    the site of the documentation, into site/, with its links checked'
	@echo 'make frontier   what pruning costs at 50 to 99 %, against what else one could do'
	@echo 'make studies    every experiment in full, into docs/studies (days; DATA=FOLDER_OF_MNIST)'
	@echo 'make studies-quick   their quick forms, into runs/studies (a quarter of an hour)'
	@echo 'make soak    the pruned agent at 50 Hz for an hour, under load, faults and swaps'
	@echo '             (SOAK_SECONDS=60 make soak for the short form)'
	@echo 'make clean   remove what builds and tests left; .venv and runs/ stay'

setup:
	@command -v $(PYTHON) >/dev/null || { echo "make setup cannot go on: $(PYTHON) is not \
	found; allowed: Python 3.10 or newer; name one: make setup PYTHON=/path/to/python3.11" >&2; \
	exit 1; }
	@PIP_ARGS='$(PIP_ARGS)' TORCH_SPEC='$(TORCH_SPEC)' \
	$(PYTHON) tools/setup_env.py

demo: setup
	@$(IN_VENV) python -m pruned_controller.demo $(if $(BUNDLE),--bundle $(BUNDLE)) $(ARGS)

lint: setup
	@$(IN_VENV) ruff check . && mypy

test: setup lint
	@$(IN_VENV) python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

bench: setup
	@$(IN_VENV) python benchmarks/planner.py --json runs/bench/planner.json $(ARGS)

optimum: setup
	@$(IN_VENV) python benchmarks/pendulum_optimum.py --episodes 100

docs:
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && \
	.venv-docs/bin/pip install -q $(PIP_ARGS) -r requirements/docs.txt; }
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build $(ARGS)

frontier: setup
	@$(IN_VENV) python benchmarks/frontier.py $(ARGS)

ON_IMAGES := latent ema schedule timing
ON_AGENTS := scores coupling stress stability
DATA ?=

# One that fails is reported, and stops none of the others.
studies: setup
	@$(IN_VENV) failed=0; \
	for name in $(ON_IMAGES); do \
	python -m pruning_core study $$name --out docs/studies --data '$(DATA)' $(ARGS) || failed=1; \
	done; for name in $(ON_AGENTS); do \
	python -m pruning_core study $$name --out docs/studies $(ARGS) || failed=1; \
	done; exit $$failed

studies-quick: setup
	@$(MAKE) studies ARGS='--quick --out runs/studies/quick $(ARGS)' DATA='$(DATA)'

soak: setup
	@$(IN_VENV) python benchmarks/soak.py

clean:
	rm -rf build install log dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
