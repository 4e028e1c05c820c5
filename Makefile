# make lab     open the tutorials in JupyterLab
# make test    run everything that CI runs
# make test-slow   the tests that take minutes: students' copies run, a mutated wskit, memory
# make fuzz    arbitrary files into the loaders, for some minutes
# make notebooks   rebuild the tutorials from notebooks/src, and what README.md shows of them
# make peers   the environments of the tools that benchmarks compare with, in benchmarks/.peers
# make bench   run all benchmarks, for hours, and write what they measured into benchmarks/RESULTS.md
# make site    a static site of the tutorials, in build/site
#
# Each makes the environment .venv when it is missing or its requirements have changed: `make lab`
# with what learners need, every other with the rest as well.
# Another Python (3.11 or newer): make test PYTHON=python3.13

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
EXTRAS := lab,dev,browser,hub,app,publish,scale
VENV := .venv
BIN := $(VENV)/bin
LAB_READY := $(VENV)/.ready-lab
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
JOBS ?= 2

# A kernel draws into its notebook unless MPLBACKEND says otherwise.
unexport MPLBACKEND
# pip compiles nothing: 15,000 modules are installed, and what is used is compiled when imported.
unexport PYTHONDONTWRITEBYTECODE
TEST_ENV := OMP_NUM_THREADS=1 PYTHONHASHSEED=0
UNIT := -m "not network and not slow" -n $(JOBS) --dist worksteal
NBVAL := -o addopts=-ra -p tests.nbval_plugin -p no:cacheprovider \
	-n $(JOBS) --dist loadfile --no-loadscope-reorder \
	--nbval --nbval-current-env --nbval-sanitize-with=tests/nbval_sanitize.cfg \
	--nbval-cell-timeout=600 --nbval-kernel-startup-timeout=300
# Kernels that no processor of today takes by itself: what is printed may not hang on them.
KERNELS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Sandybridge
NUMBERS := $(foreach m,spectra fits averaging geometry zoo,$(wildcard tests/test_$(m)*.py))
BROWSER := -o addopts="--strict-markers --strict-config -ra" -n $(JOBS) --dist loadfile

.PHONY: lab test test-slow notebooks peers bench site clean
.DELETE_ON_ERROR:

lab: $(LAB_READY)
	$(BIN)/wskit lab

# One stage after the other, the quick ones first; the first that fails ends it.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python notebooks/build.py --check
	$(TEST_ENV) $(BIN)/python -m pytest $(UNIT)
	$(TEST_ENV) WSKIT_OFFLINE=1 $(BIN)/python -m pytest $(NBVAL) notebooks/*.ipynb
	$(TEST_ENV) $(KERNELS) $(BIN)/python -m pytest $(UNIT) tests/page_of_the_day.py $(NUMBERS)
	$(TEST_ENV) $(BIN)/python -m pytest $(BROWSER) tests/browser

test-slow: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -m "slow and not network"

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(TEST_ENV) WSKIT_FUZZ_EXAMPLES=3000 $(BIN)/python -m pytest tests/test_fuzz.py
	$(TEST_ENV) $(BIN)/python tests/fuzz_checkpoints.py 180

notebooks: $(READY)
	$(BIN)/python notebooks/build.py
	$(BIN)/python notebooks/images/make.py

peers: $(READY)
	$(BIN)/python benchmarks/_peers.py

# Each script writes its own section; one that fails does not keep the others from it.
bench: peers
	@failed=0; for script in benchmarks/[a-z]*.py; do \
		echo "$$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || failed=1; done; exit $$failed

site: $(READY)
	rm -rf build/site
	$(BIN)/sphinx-build -q -W --keep-going -E -d build/doctrees -c notebooks/site notebooks build/site

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist benchmarks/.peers

$(LAB_READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wskit needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[lab]'
	@touch $@

$(READY): $(LAB_READY)
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@
