# Each target needs nothing but Python 3.11 or later and make: the first one you run creates .venv from the lock.
#   make run      install, build the demonstration world, run the whole demo chain, render the reports
#   make test     style, types, pairs, unit tests, the smoke chain, its reports, nbval
#   make ci       the same, then its pages and JupyterLab in Chromium, where that is installed
#   make soak     the campaigns of tests/RELIABILITY.md: kills, full disks, damaged files, strangers' tables (over an hour)
#   make browser  the pages of the newest run, and JupyterLab on it, in Chromium (Debian: apt install chromium)
#   make clicks   how long each explorer takes to answer a click in JupyterLab
#   make lab      JupyterLab on the notebooks
#   make screenshots  the README's pictures, from the newest run
#   make lock     resolve requirements.lock again from pyproject.toml
# Another interpreter: make run PYTHON=python3.12. Unit tests in more processes (3 GB each): make test WORKERS=4

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := 2
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test ci soak browser clicks screenshots lab lock install
.DEFAULT_GOAL := run

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: $(PYTHON) is not there; install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: geocbm needs Python 3.11 or later and $(PYTHON) is $$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null || echo broken); name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) comes without its venv module; install it (Debian, Ubuntu: apt install python3-venv) or name another Python: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "geocbm: creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "geocbm: installing the locked packages into $(VENV) (several GB the first time, some minutes)"
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@# As a folder on the path: otherwise a script beside the clone would find the clone's folder in place of the package.
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

install: $(STAMP)

run: $(STAMP)
	@$(BIN)/python -m geocbm run --profile demo

lab: $(STAMP)
	@echo "geocbm: starting JupyterLab; the notebooks are in notebooks/"
	@# Threads that wait give way to the browser, which wants a core too.
	@PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_CONFIG_PATH="$(CURDIR)/tools/lab" OMP_WAIT_POLICY=PASSIVE \
		$(BIN)/python -m jupyter lab --ServerApp.root_dir="$(CURDIR)"

# The smoke chain (tests/workbench/test_chain.py reads GEOCBM_TEST_ROOT), nbval and the browser share one scratch folder, so
# that the world is made once and the user's data/ and reports/ stay untouched.
test: $(STAMP)
	@echo "geocbm: style, types and pairs"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -m geocbm check
	@scratch="$(SCRATCH)"; test -n "$$scratch" || { scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT; } && \
	echo "geocbm: unit tests, the smoke chain and its reports" && \
	OMP_NUM_THREADS=1 GEOCBM_TEST_ROOT="$$scratch" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests && \
	echo "geocbm: nbval over the notebooks" && \
	GEOCBM_DATA="$$scratch/data" GEOCBM_REPORTS="$$scratch/reports" $(BIN)/python -m pytest -p no:cacheprovider \
		--nbval-lax --nbval-cell-timeout=600 --nbval-sanitize-with notebooks/sanitize.cfg notebooks

# In the browser are all pages, and Run All of three notebooks with explorers; of the others, whose cells nbval has run,
# `make browser` does it: minutes less.
ci: $(STAMP)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(MAKE) --no-print-directory test SCRATCH="$$scratch" && \
	echo "geocbm: pages and JupyterLab in Chromium, where it is there" && \
	GEOCBM_DATA="$$scratch/data" GEOCBM_REPORTS="$$scratch/reports" GEOCBM_BROWSER=optional $(BROWSER) -rs \
		-k "not run_all or 00_ or 02_ or 08_"

soak: $(STAMP)
	@$(BIN)/python -m tests.soak

# Two processes, each with a JupyterLab of its own for the notebooks that it gets.
BROWSER = $(BIN)/python -m pytest -p no:cacheprovider -n 2 -m browser tests/browser

browser: $(STAMP)
	@$(BROWSER)

clicks: $(STAMP)
	@$(BIN)/python -m tools.click_times

screenshots: $(STAMP)
	@$(BIN)/python -m tools.screenshots

lock: $(STAMP)
	@echo "geocbm: resolving requirements.lock from pyproject.toml"
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --upgrade pyproject.toml --output-file requirements.lock
