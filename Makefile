# GNU make 3.81 (macOS) is enough. Every target first brings .venv up to date; `make` alone lists the targets.
# .venv is built with the newest of PYTHONS on PATH. To choose another: make PYTHON=/path/to/python3.12
PYTHONS = 3.13 3.12 3.11
UV_VERSION = 0.13.9
# Tools of `make sbom`, which uv runs from environments of their own
CYCLONEDX = cyclonedx-bom==7.5.0
PIP_LICENSES = pip-licenses==5.5.5
PY = .venv/bin/python

# Compiled bytecode halves the time of every import, so the variable that forbids it must not reach
# the recipes; the others would let packages from outside .venv in.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME

.PHONY: help setup repro retrain study test test-slow faults lint lab drivers docs sbom clean
.DEFAULT_GOAL := help

help:
	@echo 'make repro      all tables and figures of the paper, from the released weights: 4 minutes on two CPU cores'
	@echo 'make retrain    trains all of it anew and compares: 27 minutes; make retrain SEEDS=0: one seed, 13 minutes'
	@echo 'make study      when does consensus help? Worlds with other rates: at most 2 hours'
	@echo 'make test       linters, types and the fast tests: about 10 minutes'
	@echo 'make test-slow  all tests, the slow ones too: 20 to 60 minutes and 25 GB of disk'
	@echo 'make faults     damaged files of every format, kills, full disks, lost inputs, 10,000 steps: about 20 minutes'
	@echo 'make lint       linters and types only'
	@echo 'make lab        the notebooks in JupyterLab'
	@echo 'make drivers    only let git show and merge notebooks by nbdime, and commit them without outputs'
	@echo 'make docs       the documentation site in build/site: half a minute'
	@echo 'make sbom       the packages of .venv and their licences: build/sbom.json (CycloneDX), build/licences.csv'
	@echo 'make setup      only build .venv from requirements.lock: 6 GB, 1 to 10 minutes depending on your network'
	@echo 'make clean      remove .venv and the caches of the tools; data and figures stay'
	@echo
	@echo 'All targets run setup first. Python 3.11, 3.12 or 3.13 must be on PATH, or: make PYTHON=/path/to/python3.12'

# .venv/.ready records what .venv was built from: the folder, the pins and the package's metadata. If
# nothing changed, setup is one comparison. .venv/.building marks an unfinished build; setup starts it
# over, because an interrupted installer leaves packages that look complete and are not.
# An activated .venv is taken off PATH, because a new .venv cannot be built with the one it replaces.
setup:
	@set -e; \
	PATH="$${PATH#"$$PWD/.venv/bin:"}"; \
	version() { "$$1" -c 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none; }; \
	usable() { case ' $(PYTHONS) ' in *" $$(version "$$1") "*) ;; *) false;; esac; }; \
	moved() { [ -f .venv/.ready ] && ! grep -qxF "`pwd`" .venv/.ready; }; \
	another() { [ -n "$(PYTHON)" ] && [ "$$(version "$(PYTHON)")" != "$$(version $(PY))" ]; }; \
	want="`pwd; cat requirements.lock pyproject.toml | cksum`"; \
	if [ "`cat .venv/.ready 2>/dev/null`" = "$$want" ] && ! another; then exit 0; fi; \
	if [ -f .venv/.building ] || moved || another || ! usable $(PY) || ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- $(PYTHONS:%=python%) python3 python; fi; \
	  for candidate; do \
	    if usable "$$candidate"; then found="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    if [ -n "$(PYTHON)" ]; then echo 'make: $(PYTHON) is not a Python of version $(PYTHONS) with venv and ensurepip' >&2; \
	    else echo 'make: no Python of version $(PYTHONS) with venv and ensurepip on PATH' >&2; fi; \
	    echo '      install one (on Debian and Ubuntu with python3-venv), or name it: make PYTHON=/path/to/python3.12' >&2; \
	    echo '      or use conda: conda env create -f environment.yml' >&2; exit 1; \
	  fi; \
	  if [ -e .venv ]; then echo "== .venv is unfinished, moved or of another Python: rebuilding it with $$found"; \
	  else echo "== building .venv with $$found"; fi; \
	  rm -rf .venv; mkdir .venv; : > .venv/.building; \
	  "$$found" -m venv .venv; \
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

# DVC starts its stages as `mc3 ...`, which it finds on PATH.
DVC = PATH="$$PWD/.venv/bin:$$PATH" dvc

repro: setup
	@$(PY) -m mc3.cli repro
	@$(PY) -m mc3.cli compare --tables || [ $$? -ne 2 ]  # the pipeline ran, whatever the verdict

retrain: setup
	@$(PY) -m mc3.cli retrain $(if $(SEEDS),--seeds $(SEEDS))

study: setup
	@$(DVC) repro experiments/dvc.yaml:$@

test: lint
	@echo '== tests (about 9 minutes, in two processes)'
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: lint
	@echo '== all tests, the slow ones too (20 to 60 minutes; needs 25 GB of disk while it runs)'
	@OMP_NUM_THREADS=1 $(PY) -m pytest

faults: setup
	@MC3_FAULTS=1200 OMP_NUM_THREADS=1 $(PY) -m pytest -s tests/test_hostile.py
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(PY) -m faults

lint: setup
	@echo '== linters and types (half a minute the first time)'
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

# The settings are those of this environment: JupyterLab asks no question about news, and root may start it, since in
# containers there is nobody else. Its address stays localhost, with a token.
LAB_SETTINGS = .venv/share/jupyter/lab/settings
lab: drivers
	@mkdir -p $(LAB_SETTINGS)
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
	  > $(LAB_SETTINGS)/overrides.json
	@$(PY) -m jupyterlab notebooks `[ "$$(id -u)" = 0 ] && echo --allow-root`

drivers: setup
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config filter.nbstripout.clean '$(PY) -m nbstripout --keep-id'; \
	  git config filter.nbstripout.smudge cat; \
	  git config diff.jupyternotebook.command '$(PY) -m nbdime.vcs.git.diffdriver diff'; \
	  git config merge.jupyternotebook.driver '$(PY) -m nbdime.vcs.git.mergedriver merge %O %A %B %L %P'; \
	fi

docs: setup
	@$(PY) -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo 'open build/site/index.html'

sbom: setup
	@mkdir -p build
	@uv=uv; command -v uv >/dev/null 2>&1 || uv=.venv/bin/uv; \
	$$uv tool run --from $(CYCLONEDX) cyclonedx-py environment --pyproject pyproject.toml -o build/sbom.json $(PY); \
	$$uv tool run $(PIP_LICENSES) --python $(PY) --from mixed --with-urls --format csv --output-file build/licences.csv

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache .hypothesis mc3.egg-info
	find mc3 tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
