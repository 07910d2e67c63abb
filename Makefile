# Every target makes its own virtual environment in .venv the first time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo dist docs figures test test-all test-cluster test-cuda lowest zoo lint types check bench bench-all recompile clean

demo: .venv/ready
	$(BIN)/python analyses/jacobian_spectrum.py

figures: .venv/ready
	$(BIN)/python analyses/jacobian_spectrum.py
	$(BIN)/python analyses/block_order.py
	$(BIN)/python analyses/bypass.py
	$(BIN)/python analyses/depth_as_time.py
	$(BIN)/python analyses/digits.py
	$(BIN)/python analyses/ensemble.py
	$(BIN)/python analyses/fit_sine.py
	$(BIN)/python analyses/fold_counts.py
	$(BIN)/python analyses/folding.py
	$(BIN)/python analyses/gradient_norms.py
	$(BIN)/python analyses/hard_targets.py
	$(BIN)/python analyses/identity_distance.py
	$(BIN)/python analyses/infinite_depth.py
	$(BIN)/python analyses/phase_diagram.py
	$(BIN)/python analyses/precision.py
	$(BIN)/python analyses/slices.py
	$(BIN)/python analyses/theory_check.py
	$(BIN)/python docs/theory_page.py
	$(BIN)/python analyses/training_death.py
	$(BIN)/python analyses/your_model.py

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

# What `test` leaves out, after it: long statistics, and the scripts, the tutorial and the site as a whole.
test-all: test .venv/docs
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m slow tests

# The rooms that lean on other packages most, with the oldest versions of these that are promised to work.
lowest: .venv/lowest/ready
	.venv/lowest/bin/python -m pytest --numprocesses=2 --dist=worksteal tests/foundation tests/networks tests/plots

# A sweep on Slurm, whose daemons run on this machine alone; says why where they cannot.
test-cluster: .venv/cluster
	$(BIN)/python -m pytest -m cluster -rs tests/sweeps

# Every verb on a GPU against the CPU; says so where there is none.
test-cuda: .venv/ready
	$(BIN)/python -m pytest -m cuda -rs tests/cuda

# Wheel and source distribution, built, looked into, and used from an empty environment.
dist: .venv/dist
	$(BIN)/python -m pytest -m dist tests/test_dist.py

zoo: .venv/zoo
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m zoo tests/zoo

# The site, into docs/_build/html; pages of the reference and the tutorial are written to docs/generated first.
docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

check: test-all lowest dist lint types

# The table of speeds, under 15 minutes, beside other packages where they install.
bench: .venv/bench
	$(BIN)/python benchmarks/targets.py

# The single benchmarks, which say more.
bench-all: bench
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/folds.py
	$(BIN)/python benchmarks/slices.py
	$(BIN)/python benchmarks/spectra.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/imports.py

# Compiled loops forget what they were compiled from, but for their own file.
recompile:
	find stability -name '*.nb[ic]' -delete

clean: recompile
	rm -rf .venv

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $@

.venv/dist: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dist]'
	touch $@

# What does not install is said by the benchmarks.
.venv/bench: .venv/ready
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,bench]'
	touch $@

.venv/cluster: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,cluster]'
	touch $@

# Models of torchvision, timm and transformers, which are large to fetch.
.venv/zoo: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,zoo]'
	# Its weights are wanted, and not the old torch that it asks for.
	$(BIN)/python -m pip install --quiet --no-deps facenet-pytorch==2.6.0
	touch $@

.venv/lowest/ready: pyproject.toml constraints-lowest.txt .venv/ready
	$(PYTHON) -m venv .venv/lowest
	.venv/lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@
