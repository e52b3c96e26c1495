# `make bench` and `make test` set everything up by themselves; `make check` is the fast lane.
VENV := .venv
PYTHON3 := python3
PYTHON := $(VENV)/bin/python
PACKAGES := $(VENV)/lib/python*/site-packages
CONSTRAINTS := constraints.txt
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test
READY_FOR_DOCS := $(VENV)/.ready-for-docs
RUN := runs/bench
RUN_ALL := runs/bench-all
RUN_MECHANISMS := runs/mechanisms
# The model that hallucinates as large ones do, and strategies with their defaults beside two plain controls of captions.
MODEL := embedded/prior
SPECS := greedy brief beam vcd vdd pai vhr gift var
TWO := -n 2 --dist worksteal  # each goes through folders of its own, so that models are built once; who is done helps
export PYTHONDONTWRITEBYTECODE :=  # bytecode is kept: to make it anew takes every process that the tests start seconds

.PHONY: help bench bench-all bench-mechanisms test check most-tests quick-tests long families compat docs lint types clean

help:
	@echo "make bench    compare strategies on the model and pictures that ship with mmhall"
	@echo "make bench-all every strategy that the model can carry, each with five random twins; for a night"
	@echo "make bench-mechanisms each strategy on the model that has the mechanism it acts on, and on one that has not"
	@echo "make check    lint, types and the quick tests"
	@echo "make test     lint, types and the tests of every kind, on some model families"
	@echo "make long     the tests that make test leaves out: training, Ray, large simulations, guides as written"
	@echo "make families every test on every model family, the long ones as well"
	@echo "make docs     the documentation as a site, in build/site; a broken link fails"
	@echo "make compat   the quick tests on the oldest and the newest transformers (VERSIONS=5.25.0: on another one)"

# An installation that was stopped goes on: packages that pip has not finished are removed first (the RECORD it writes
# last lists INSTALLER), what it has downloaded it keeps. Its warnings are about the machine, so only errors are shown.
define install
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "mmhall needs Python 3.10 or newer, and $(PYTHON3) is `$(PYTHON3) --version`; try: make PYTHON3=python3.12"; exit 1; }
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || $(PYTHON3) -m venv --clear $(VENV)
	@for part in $(PACKAGES)/*.dist-info; do grep -qs INSTALLER "$$part/RECORD" || rm -rf "$$part"; done; rm -rf $(PACKAGES)/~*
	@began=`date +%s`; $(PYTHON) -m pip install -qq --disable-pip-version-check --config-settings editable_mode=compat \
		-c $(CONSTRAINTS) -e "$(1)" || \
		{ echo "installation failed; run the same command again to continue"; exit 1; }; \
		echo "== installed in $$((`date +%s` - began)) s"
	@touch $@
endef

$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "== installing mmhall in $(VENV): 3 to 6 minutes the first time; 7 GB, mostly torch and the GPU libraries it brings"
	$(call install,.)

$(READY_TO_TEST): $(READY)
	@echo "== installing what the tests need: about a minute; 0.5 GB (Ray, a browser driver, linters)"
	$(call install,.[dev])

$(READY_FOR_DOCS): $(READY)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "the generator of the documentation needs Python 3.11 or newer; try: make docs PYTHON3=python3.12"; exit 1; }
	@echo "== installing what builds the documentation: half a minute; 60 MB"
	$(call install,.[docs])

bench: $(READY)
	@echo "== comparing 9 strategies, 6 to 20 minutes on two cores; results in $(RUN), a second call goes on where one stopped"
	@$(VENV)/bin/mmhall bench pope chair --model $(MODEL) $(foreach spec,$(SPECS),--strategy $(spec)) --out $(RUN) --workers 2
	@$(VENV)/bin/mmhall report $(RUN) --html $(RUN)/report.html > /dev/null

bench-all: $(READY)
	@echo "== every strategy and five random twins of each, for a night on two cores; results in $(RUN_ALL), a second call goes on"
	@$(VENV)/bin/mmhall bench pope chair --model $(MODEL) --all --twins 5 --out $(RUN_ALL) --workers 2
	@$(VENV)/bin/mmhall report $(RUN_ALL) --html $(RUN_ALL)/report.html > /dev/null

bench-mechanisms: $(READY)
	@echo "== positive and negative controls, at most 40 minutes on two cores; runs in $(RUN_MECHANISMS), a second call goes on"
	@$(PYTHON) -m mmhall.benchmarks.mechanisms --out $(RUN_MECHANISMS) --workers 2

# CONTRIBUTING.md says which tests each lane runs. Lint and types run beside the tests; a failure of one does not stop the others.
test: $(READY_TO_TEST)
	@$(MAKE) -s -k -j 3 lint types most-tests

check: $(READY_TO_TEST)
	@$(MAKE) -s -k -j 3 lint types quick-tests

most-tests: $(READY_TO_TEST)
	@echo "== quick and slow tests, 6 to 12 minutes on two cores"
	@$(PYTHON) -m pytest -q $(TWO)

quick-tests: $(READY_TO_TEST)
	@echo "== the quick tests, one to two minutes on two cores"
	@$(PYTHON) -m pytest -q $(TWO) -m "not slow"

long: $(READY_TO_TEST)
	@echo "== the long tests, 5 to 12 minutes on two cores"
	@$(PYTHON) -m pytest -q $(TWO) -m long

families: $(READY_TO_TEST)
	@echo "== every test on every model family, and the long ones, half an hour on two cores"
	@$(PYTHON) -m pytest -q $(TWO) --families=all

compat: $(READY_TO_TEST)
	@$(PYTHON) -m tests.compat $(VERSIONS)

docs: $(READY_FOR_DOCS)
	@echo "== building build/site/index.html, half a minute"
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs build/site

lint: $(READY_TO_TEST)
	@echo "== ruff"
	@$(VENV)/bin/ruff check .

# mypy does not follow the mapping of root folders to subpackages: it gets a tree of links.
types: $(READY_TO_TEST)
	@echo "== mypy"
	@rm -rf build/types && mkdir -p build/types/mmhall
	@ln -s "$(CURDIR)"/mmhall/* build/types/mmhall/
	@for part in decoders benchmarks demo; do ln -s "$(CURDIR)/$$part" build/types/mmhall/$$part; done
	@cd build/types && "$(CURDIR)/$(PYTHON)" -m mypy --config-file "$(CURDIR)/pyproject.toml" --cache-dir ../mypy -p mmhall

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
