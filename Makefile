# `make` says what there is. Needs Python 3.11 or newer, git and make; everything else comes from the package index.

# make PYTHON=python3.13 chooses another Python, and VENV=.venv-3.13 keeps its environment beside the usual one.
PYTHON ?=
VENV ?= .venv
INTERPRETER := $(shell tools/find_python.sh $(if $(PYTHON),"$(PYTHON)"))
INSTALLED := $(VENV)/.installed$(subst $() ,-,$(subst /,-,$(INTERPRETER)))
ifneq ($(words $(VENV)),1)
    $(error VENV names the directory of the environment: give a path without spaces, such as VENV=.venv-3.13)
endif
WORKERS ?= 3
MINUTES ?= 5
SECONDS ?= 300
CASES ?= 20000
COVERAGE := 90
BIN := $(VENV)/bin
PYTHONS := python3.11 python3.12 python3.13 python3.14
UNIT := tests/unit tests/soak/test_checker.py tests/soak/test_measures.py tests/soak/test_page.py \
    tests/observability/test_metrics.py tests/observability/test_cost.py tests/deploy/test_kubernetes.py
SAMPLE := tests/packaging tests/plugin tests/cli tests/integration/embedded tests/integration/serve tests/integration/redis \
    tests/unit "tests/docs/test_examples.py::test_examples_of_a_page_work_in_order[README.md]"

.PHONY: help install demo serve test unit coverage check format bench bench-against scaling crash mutants faults hygiene twins soak load fuzz pythons sample platforms image docs lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(INSTALLED) ## create the environment in .venv (the other targets do it by themselves)

$(INSTALLED): constraints.txt client/pyproject.toml service/pyproject.toml tools/install.py
	@test -n "$(INTERPRETER)" || { echo "$(if $(PYTHON),$(PYTHON) does not run or is older than 3.11,no Python 3.11 or newer on PATH): install it, or name another (make PYTHON=...)" >&2; exit 1; }
	@"$(INTERPRETER)" tools/install.py $(VENV)
	@touch $@

demo: install ## templates from real projects, a pytest suite on clean databases, one table
	@$(BIN)/python demo/run.py

serve: install ## the service with a PostgreSQL and a Redis of its own, until Ctrl-C
	@$(BIN)/freshdb serve

test: install ## all tests, on real PostgreSQL and real Redis (WORKERS=3)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

unit: install ## the inner loop: tests that need nothing but Python, in half a minute
	$(BIN)/python -m pytest $(UNIT)

coverage: install ## all tests, and the lines of the packages that they run. Fails below the floor
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadgroup
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=$(COVERAGE)

check: install ## format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install ## let ruff format and fix the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## measure, and write docs/benchmarks.md (some sections: SECTIONS="turnover floor", a trial: QUICK=1)
	$(BIN)/python -m tests.benchmarks.run $(if $(QUICK),--quick) $(SECTIONS)

bench-against: install ## compare turnover and small resets with another commit in one run (COMMIT=…, a trial: QUICK=1, to write the page: INTO=docs)
	$(BIN)/python -m tests.benchmarks.against $(if $(QUICK),--quick) $(if $(INTO),--into "$(INTO)") "$(COMMIT)"

scaling: install ## measure three replicas and four servers, simulate larger fleets, and write docs/scaling.md (PARTS="simulated", QUICK=1)
	$(BIN)/python -m tests.benchmarks.scaling $(if $(QUICK),--quick) $(PARTS)

faults: install ## one thing fails at a time: replicas, Redis, PostgreSQL, disks, clocks
	FRESHDB_SHARES=all $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/faults

hygiene: install ## all leftovers and attacks of holders: both isolations, three versions, two kinds of role
	FRESHDB_SHARES=all FRESHDB_TEST_POSTGRES="18 16 15" \
	    $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/hygiene tests/hostile

twins: install ## the parts of the twin test: actions of holders and probes, on three versions
	FRESHDB_SHARES=all FRESHDB_TEST_POSTGRES="18 16 15" $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/twins

soak: install ## holders at work while everything fails at random, added to docs/soak.md (MINUTES=5 SEED=… CALM=1)
	$(BIN)/python -m tests.soak $(MINUTES) $(SEED) $(if $(CALM),--calm)

load: install ## 1,000 clients, 50 databases, 500 heartbeats per second that must not be late (SECONDS=300)
	$(BIN)/python -m tests.load $(SECONDS)

fuzz: install ## unusual and invalid calls, generated from the OpenAPI document (CASES=20000 SEED=…)
	$(BIN)/python -m tests.fuzz $(CASES) $(SEED)

crash: install ## a replica dies at every step of all its work, in an hour. Writes docs/crash.md
	WORKERS=$(WORKERS) $(BIN)/python -m tests.crash

mutants: install ## change one condition or state of the SQL at a time, and see a test fail. Writes docs/mutants.md
	WORKERS=$(WORKERS) $(BIN)/python -m tests.mutants

pythons: ## a sample of the tests on every other Python that is installed
	@for python in $(PYTHONS); do \
	    found=$$(tools/find_python.sh $$python) && [ "$$found" != "$(INTERPRETER)" ] || continue; \
	    $(MAKE) sample PYTHON="$$found" VENV=.venv-$$python || exit 1; \
	done

sample: install ## that sample on one Python (PYTHON=python3.12 VENV=.venv-3.12)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(SAMPLE)

platforms: install ## find the Pythons and platforms for which every dependency has a wheel. Writes docs/platforms.md
	$(BIN)/python -m tests.packaging

image: ## build the image with docker, podman or buildah, run it, lease from it (PYTHON_IMAGE=debootstrap: no registry)
	"$(INTERPRETER)" tools/image.py

docs: install ## build the site in build/docs (a warning is an error), and run the examples of all pages
	$(BIN)/python -m sphinx -q -E -W --keep-going docs build/docs
	FRESHDB_SHARES=all $(BIN)/python -m pytest tests/docs

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
    --no-emit-package freshdb

lock: ## upgrade the pins in constraints.txt and of the image (needs uv)
	$(COMPILE) --upgrade client/pyproject.toml service/pyproject.toml --group pyproject.toml:dev --group pyproject.toml:demo \
	    --output-file constraints.txt
	$(COMPILE) --constraints constraints.txt client/pyproject.toml service/pyproject.toml --extra otel --output-file deploy/requirements.txt
	printf '%s\n' build hatchling | $(COMPILE) --constraints constraints.txt - --output-file deploy/requirements-build.txt

clean: ## remove the environment and all build output
	rm -rf .venv* .coverage* build dist client/dist service/dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
