# GNU make 3.81 (macOS) is enough. Every target first sees to .venv; `make` alone lists them.
# Another Python 3.11 than the one on PATH: make PYTHON=/path/to/python3.11
UV_VERSION = 0.13.9
PY = .venv/bin/python

# Compiled bytecode halves the time of every import, so the variable that forbids it must not reach
# the recipes; the others would let packages from outside .venv in.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME

.PHONY: help setup repro seeds study test test-slow lint lab clean
.DEFAULT_GOAL := help

help:
	@echo 'make repro      every table and figure of the paper from nothing, about 12 minutes on two CPU cores'
	@echo 'make seeds      Tables 2-4 over five seeds, into figures/seeds: 25 minutes after make repro'
	@echo 'make study      when does consensus help? worlds of other rates, at most 2 hours'
	@echo 'make test       linters, types and the tests that take minutes'
	@echo 'make test-slow  the tests marked slow as well: 20 to 60 minutes and 25 GB of disk'
	@echo 'make lab        the notebooks in JupyterLab'
	@echo 'make lint       linters and types only'
	@echo 'make clean      remove .venv and the tools'\'' caches; data and figures stay'
	@echo
	@echo 'The first of these to run builds .venv from requirements.lock: 6 GB, 1 to 10 minutes by your network.'

# .venv/.ready holds what .venv was built from: the folder, the pins and the package's metadata. When
# nothing changed this is one comparison. .venv/.building marks an unfinished build, which is started
# over, because an interrupted installer leaves packages that look complete and are not.
setup:
	@set -e; \
	want="`pwd; cat requirements.lock pyproject.toml | cksum`"; \
	if [ "`cat .venv/.ready 2>/dev/null`" = "$$want" ]; then exit 0; fi; \
	usable() { "$$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }; \
	moved() { [ -f .venv/.ready ] && ! grep -qxF "`pwd`" .venv/.ready; }; \
	if [ -f .venv/.building ] || moved || ! usable $(PY) || ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for candidate in $(PYTHON) python3.11 python3 python; do \
	    if usable $$candidate; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'make: no Python 3.11 on PATH; install it, or name it: make PYTHON=/path/to/python3.11' >&2; \
	    echo '      or use conda: conda env create -f environment.yml' >&2; exit 1; \
	  fi; \
	  if [ -e .venv ]; then echo '== .venv is unfinished, moved or of another Python: building it anew'; \
	  else echo "== building .venv with $$found"; fi; \
	  rm -rf .venv; mkdir .venv; : > .venv/.building; \
	  $$found -m venv .venv; \
	fi; \
	: > .venv/.building; rm -f .venv/.ready; \
	uv=uv; \
	if ! command -v uv >/dev/null 2>&1; then \
	  uv=.venv/bin/uv; \
	  echo '== installing uv, which installs the rest (a few seconds)'; \
	  $(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	fi; \
	echo '== installing requirements.lock: about 3 GB to download the first time, 1 to 10 minutes'; \
	$$uv pip install --python $(PY) --compile-bytecode -r requirements.lock; \
	echo '== installing this package'; \
	$$uv pip install --python $(PY) --no-deps --editable .; \
	rm -f .venv/.building; \
	printf '%s\n' "$$want" > .venv/.ready; \
	echo '== .venv is ready'

repro: setup
	@$(PY) -m mc3.cli repro
	@$(PY) -m mc3.cli compare --tables

seeds: setup
	@$(PY) -m mc3.cli repro
	@$(PY) -m mc3.cli seeds
	@$(PY) -m mc3.cli report

study: setup
	@$(PY) -m mc3.cli study
	@$(PY) -m mc3.cli report

test: lint
	@echo '== tests (some minutes)'
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m 'not slow'

test-slow: lint
	@echo '== all tests, the slow ones too (20 to 60 minutes, 25 GB of disk for a while)'
	@OMP_NUM_THREADS=1 $(PY) -m pytest

lint: setup
	@echo '== linters and types (half a minute the first time)'
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

lab: setup
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config filter.nbstripout.clean '$(PY) -m nbstripout --keep-id'; \
	  git config filter.nbstripout.smudge cat; \
	  git config diff.jupyternotebook.command '$(PY) -m nbdime.vcs.git.diffdriver diff'; \
	  git config merge.jupyternotebook.driver '$(PY) -m nbdime.vcs.git.mergedriver merge %O %A %B %L %P'; \
	fi
	@$(PY) -m jupyterlab notebooks

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis mc3.egg-info
	find mc3 tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
