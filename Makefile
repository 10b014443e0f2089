# Every target is a thin call of `landmarks <stage>`, whose --help says the rest.

PYTHON  ?= python3
DATA    ?= data/demo
CONFIG  ?=
# Named after the config, or after the photographs where none is asked for, so that what follows
# finds it. The demo's own run is of classical-global.
RUN     ?= data/runs/$(if $(filter data/demo:classical-global,$(DATA):$(CONFIG)),demo,$(or \
	$(CONFIG),$(notdir $(abspath $(DATA)))))
DEVICE  ?= auto
WEIGHTS ?=
CSV     ?=
OUT     ?= predictions.csv
TESTS   ?=

VENV  := .venv
BIN   := $(VENV)/bin
# Made last, so that an interrupted set-up is taken up again; older than what it was made from,
# the environment is brought up to date.
STAMP := $(VENV)/installed

config    := $(if $(CONFIG),--config "$(CONFIG)")
# A process a core.
pytest    := $(BIN)/pytest -n auto --dist worksteal
on_device := --device "$(DEVICE)"
weights   := $(if $(WEIGHTS),--weights "$(WEIGHTS)")

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-train test test-fast data index evaluate classify doctor lint bench gpu clean

help: ## say what there is (this list)
	@echo "make TARGET [NAME=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /  {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  DATA=$(DATA)  photographs: a data folder, or a folder with a folder per landmark"
	@echo "  CONFIG=$(CONFIG)  the system, one of pipelines/configs; chosen where it is empty"
	@echo "  RUN=$(RUN)  where a built system lies"
	@echo "  DEVICE=$(DEVICE)  auto, cpu or cuda"
	@echo "  WEIGHTS=$(WEIGHTS)  a file of weights, or a folder with files of their names"
	@echo "  CSV=$(CSV)  what classify reads: rows of id,url, or bare URLs or paths"
	@echo "  OUT=$(OUT)  what classify writes"
	@echo "  TESTS=$(TESTS)  what to hand to pytest (tests/retrieval, -m real ...)"
	@echo "  PYTHON=$(PYTHON)  the Python (3.11 or newer) that setup makes .venv with"

setup: $(STAMP) ## make .venv with the package and the pinned versions (once; 2 minutes, 8 GB)

demo: $(STAMP) ## render demo landmarks, then index, evaluate and classify them
	$(BIN)/landmarks demo $(on_device)

demo-train: $(STAMP) ## the same, and a network trained from nothing beside it
	$(BIN)/landmarks demo --train $(on_device)

test: $(STAMP) ## run all tests (on two cores 10 minutes)
	$(pytest) $(TESTS)

test-fast: $(STAMP) ## run the tests for daily work, which leave out the slow ones (90 s)
	$(pytest) -m "not slow" $(TESTS)

data: $(STAMP) ## render the demo's photographs into DATA
	$(BIN)/landmarks data demo --out "$(DATA)"

index: $(STAMP) ## build RUN from DATA, by CONFIG or by the best system for this machine
	$(BIN)/landmarks index $(config) --data "$(DATA)" --run "$(RUN)" $(on_device) $(weights)

evaluate: $(STAMP) ## measure RUN on the test photographs of DATA, and write its report
	$(BIN)/landmarks evaluate --run "$(RUN)" --data "$(DATA)" $(on_device) $(weights)

classify: $(STAMP) ## answer every row of CSV by RUN, into OUT
	@test -n "$(CSV)" || { echo "make classify needs CSV=urls.csv" >&2; exit 2; }
	$(BIN)/landmarks classify "$(CSV)" --out "$(OUT)" --run "$(RUN)" $(on_device) $(weights)

doctor: $(STAMP) ## check the installation, a line and a remedy each
	$(BIN)/landmarks doctor

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Those that need a GPU or a data set beside the demo's, and what they share.
ELSEWHERE := gpu small_collections sources_of_none extracted runtimes fetching planning ray_workers
bench: demo ## measure speed and memory into benchmarks/results
	@for script in $(filter-out $(ELSEWHERE:%=benchmarks/%.py),$(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$script"; $(BIN)/python "$$script" || exit; \
	done

# Without a set-up, which needs a network: a machine that is lent for minutes has what it has.
gpu: ## test and measure everything that runs on a GPU, into benchmarks/results/gpu.md (6 minutes)
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" \
		$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py

clean: ## remove what make made: .venv, caches, the demo's photographs and run; other runs stay
	rm -rf build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf data/demo data/runs/demo
	find retrieval pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	if test -e $(STAMP); then rm -rf $(VENV); fi

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "the set-up needs Python 3.11 or newer, which $(PYTHON) is not:" \
			"make setup PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) lacks venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 2; }
	@echo "setting up $(VENV): about 2 minutes and 8 GB the first time"
	@$(PYTHON) -m venv $(VENV)
# The build tool from the constraints too, so that pip makes no second environment to build in.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --no-build-isolation --editable ".[dev]"
# A server for the tests of Milvus, alone: of what it asks for, faiss-cpu would lie over faiss-gpu,
# which does, and the rest is there.
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps -c constraints.txt milvus-lite
	@touch $@
