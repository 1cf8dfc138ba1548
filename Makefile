# make demo   a virtual environment, the package, the main job, a comparison table and a report
# make test   lint, types and tests (the fast ones; make test-slow runs the others)
# make screenshot   pages of an analysis, a run, a comparison and a trace of the nano model, as a browser shows them, in
#                   runs/screenshot; report.png is the first
# make bench-smoke   every bench at tiny sizes: shows that it runs, claims nothing
# make docs   the pages, with the API page from docstrings, in site/
# make faults   what is broken on purpose, what has to come of it and what came, ten minutes; make faults-long: two hours
# make conformance   which head, loss and metric keeps which law, and every model type
# make audit   known vulnerabilities of what is locked
# make sbom   what an installation consists of, as CycloneDX, in dist/sbom.json
# make locks   the locks, anew: after a change of pyproject.toml or constraints.txt
# make families   what `list families` prints, and its page, anew: after an update of transformers

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MOE_TUNE := $(BIN)/python -m moe_tune
SHOWN := runs/screenshot
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# One more than there are cores: some tests wait for servers and for other processes.
WORKERS := $(shell $(PYTHON) -c "import os; print(os.cpu_count() + 1)")
# Of the slow tests, those whose subject no fast one touches; make test-slow runs them all.
SLOW_IN_CI := $(addprefix tests/integration/test_,notebook.py wheel.py)
export TOKENIZERS_PARALLELISM := false

.PHONY: demo install install-test install-bench install-docs install-all locks audit sbom lint test conformance families test-slow test-ci faults faults-long bench-smoke docs screenshot clean

demo: install
	$(MOE_TUNE) experiment experiments/demo --runs_root runs

install: $(VENV)/.installed
# What developers need beside, at once.
install-all install-test install-bench install-docs: $(VENV)/.installed-all

# Every file has to have a hash that the lock holds. Where there is no GPU, torch's CPU build comes first if it is offered;
# the CUDA build, where it is what was found, needs more.
LOCKED := --require-hashes --no-deps
NEEDS_CUDA := import importlib.metadata, sys; sys.exit("nvidia" not in str(importlib.metadata.requires("torch")))

$(VENV)/.installed: pyproject.toml locks/base.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'expected Python 3.11 or newer: make PYTHON=python3.11 ...' or 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v nvidia-smi >/dev/null || $(PIP) $(LOCKED) -r locks/cpu.txt 2>/dev/null || true
	$(PIP) $(LOCKED) -r locks/base.txt
	if $(BIN)/python -c '$(NEEDS_CUDA)'; then $(PIP) $(LOCKED) -r locks/cuda.txt; fi
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.installed-all: $(VENV)/.installed locks/all.txt
	$(PIP) $(LOCKED) -r locks/all.txt
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import moe_tune.faults.preloaded"  # no later process compiles what it imports
	touch $@

# After a change of pyproject.toml or constraints.txt; make locks UPGRADE=--upgrade takes the newest of everything.
locks: $(VENV)/.tools
	$(VENV)/tools/bin/python locks/write_locks.py $(UPGRADE)

# Known vulnerabilities of what is locked. The data come from the index; where it has none, the last line says so.
audit: $(VENV)/.tools
	$(VENV)/tools/bin/pip-audit --disable-pip --no-deps --progress-spinner off --format json -r locks/all.txt 2>/dev/null \
		| $(BIN)/python locks/audited.py

# What an installation consists of, as CycloneDX.
sbom: $(VENV)/.tools
	mkdir -p dist
	$(VENV)/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.json $(BIN)/python

# Beside the environment, since they want other versions than it has.
$(VENV)/.tools: locks/tools.txt | $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check $(LOCKED) -r locks/tools.txt
	touch $@

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

conformance: install-test
	PYTHONPATH=tests $(BIN)/python -m pytest -n auto -p matrix -m "slow or not slow" tests/conformance tests/unit/heads tests/unit/losses \
		tests/unit/metrics tests/unit/gates/test_router_gradient.py

families: install-test
	$(BIN)/python tests/families_table.py

test-slow: install-test
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

test-ci: install-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow $(SLOW_IN_CI)

# The last line is faults N of N.
faults: install-test
	PYTHONPATH=. $(BIN)/python tests/faults/table.py

# Every stop, kills in saves, and an hour of random faults; outside CI.
faults-long: install-test
	PYTHONPATH=. $(BIN)/python tests/faults/table.py --long
	PYTHONPATH=. $(BIN)/python tests/faults/soak.py

bench-smoke: install-bench
	$(BIN)/python bench/smoke.py

docs: install-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

screenshot: install-test
	$(MOE_TUNE) analyze --config nano --out $(SHOWN)/analyze
	$(MOE_TUNE) fit --config nano --name tuned --runs_root $(SHOWN)
	$(MOE_TUNE) fit --config nano --config head/temperature --name sharpened --runs_root $(SHOWN)
	$(MOE_TUNE) compare $(SHOWN)/tuned-* --out $(SHOWN)/one_run
	$(MOE_TUNE) compare $(SHOWN)/sharpened-* $(SHOWN)/tuned-* --out $(SHOWN)/compare
	$(MOE_TUNE) trace $(SHOWN)/tuned-* "The capital of France is" --out $(SHOWN)/trace
	$(BIN)/python tests/browser/screenshot.py $(SHOWN)/*/report.html $(SHOWN)/trace/trace.html
	cp $(SHOWN)/analyze/report-1300.png report.png

clean:
	rm -rf runs wandb site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
