# Two commands for a newcomer: `make run` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/digits_vit

.PHONY: run test slow parity pods plan slurm lint format lock clean

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

run: $(VENV)/installed
	$(BIN)/python -m vitjax.main --config configs/digits_vit.py --workdir $(WORKDIR)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

# What is too slow for every change: kills, several processes, whole archives.
slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow -n 2 --dist loadscope --no-loadscope-reorder

# Beside the original implementations, with random weights: torch, torchvision, timm, transformers.
parity: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-parity.txt
	VITJAX_TEST_OPTIMISED=1 $(BIN)/python -m pytest -m parity -n 2 --dist loadscope tests/interop tests/ops

# Compiled for TPUs that are not here; a file to a process, so that no step is compiled twice.
pods: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-tpu.txt
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m pods -n 2 --dist loadfile

# launch/slurm.sbatch on a Slurm cluster of one node, this machine: needs root, and Debian's slurmctld, slurmd,
# slurm-client and munge.
slurm: $(VENV)/installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m slurm -rs tests/launch

# docs/pods.md: what is missing or changed is compiled, the rest costs nothing.
plan: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-tpu.txt
	JAX_PLATFORMS=cpu $(BIN)/python benchmarks/pods.py

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# uv resolves for every supported Python and platform at once.
lock: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	echo '# Locked for Python 3.11 and for 3.12 and newer; written by `make lock` from pyproject.toml.' > requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--quiet pyproject.toml >> requirements.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
