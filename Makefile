# make vectors: install and run the main job on what ships with the package; make test: install and run the tests;
# make fast: those that need no simulator and no training, with fewer random cases; make coverage: which lines and
# branches the tests reach, htmlcov/index.html; make bench: 100 kills of each command, 3,000 changed files, speed and
# memory as ratios; make site: the pages of docs/ as a site, site/index.html; make package: wheel and sdist, checked.
# Needs Python 3.11 or newer, g++ and make; everything else is installed into .venv.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
VENV := .venv
BIN := $(VENV)/bin

.PHONY: vectors test fast coverage selftest bench kills fuzz lint site package tools clean
vectors: $(VENV)/.for-vectors | tools
	@$(BIN)/qexport dump --layer 33 --checkpoint builtin --out vectors/ --force
	@$(BIN)/qexport verify vectors/features_33
	@echo
	@$(BIN)/qexport simulate vectors/features_33

# a process a core: threads would wait for each other; a process that crashes ends the run: xdist, which would begin
# another in its place, then waits forever for files that the first had finished
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

test: $(VENV)/.for-test | tools
	$(PYTEST)

fast: $(VENV)/.for-fast
	$(PYTEST) -m "not whole" --hypothesis-profile quick

coverage: $(VENV)/.for-test | tools
	$(PYTEST) --cov --cov-report term --cov-report html

selftest: $(VENV)/.for-test | tools
	$(BIN)/qexport selftest vectors/features_33

bench: $(VENV)/.for-test kills fuzz
	$(BIN)/python scripts/bench.py

kills: $(VENV)/.for-test | tools
	QEXPORT_KILLS=100 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rP tests/sim/test_kills.py
	QEXPORT_KILLS=50 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rP tests/runs/test_kills.py

fuzz: $(VENV)/.for-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.attack --runs 3000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.attack --runs 700 --by-hypothesis
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/runs/test_damage.py --hypothesis-profile many

lint: $(VENV)/.for-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/.for-site
	$(BIN)/zensical build --strict --clean

package: $(VENV)/.for-package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/check_package.py dist

tools:
	@command -v g++ > /dev/null || { echo "g++ is missing: install it (apt-get install g++)"; exit 2; }

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: install it, or make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: install it (apt-get install python3-venv)"; exit 2; }

$(VENV)/.for-vectors: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,sim]'
	@touch $@

$(VENV)/.for-fast: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,test]'
	@touch $@

$(VENV)/.for-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,sim,test]'
	@touch $@

$(VENV)/.for-site: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/.for-package: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[release]'
	@touch $@

$(VENV)/.for-lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,sim,test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) build dist htmlcov .coverage site .cache
