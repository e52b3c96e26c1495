# `make bench` and `make test` set everything up by themselves; `make check` is the fast lane.
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
RUN := runs/bench
# Every strategy with its defaults, and tuned or weaker values for those that hurt with them.
SPECS := greedy vcd vdd beam opera vhr "vhr(alpha=1.2)" gift "gift(alpha=1.0)" var \
	pai "pai(gamma=2.0,layers='50%:')" vaf
TWO := -n 2 --dist loadfile --no-loadscope-reorder  # models are built once a file; the light files come last

.PHONY: help bench test check lint types clean

help:
	@echo "make bench   compare strategies on the model and pictures that ship with mmhall"
	@echo "make test    run every test"
	@echo "make check   lint, types and the quick tests"

$(READY): pyproject.toml
	@echo "== setting up $(VENV) (the first time takes a few minutes)"
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e ".[dev]"
	@touch $@

bench: $(READY)
	@echo "== comparing strategies; results in $(RUN), a second call goes on where this one stopped"
	@$(VENV)/bin/mmhall bench pope chair $(foreach spec,$(SPECS),--strategy $(spec)) --out $(RUN) --workers 2
	@$(VENV)/bin/mmhall report $(RUN) --html $(RUN)/report.html > /dev/null

test: lint types
	@echo "== every test"
	@$(PYTHON) -m pytest -q $(TWO)

check: lint types
	@echo "== the quick tests"
	@$(PYTHON) -m pytest -q $(TWO) -m "not slow"

lint: $(READY)
	@echo "== ruff"
	@$(VENV)/bin/ruff check .

# mypy does not follow the mapping of root folders to subpackages: it gets a tree of links.
types: $(READY)
	@echo "== mypy"
	@rm -rf build/types && mkdir -p build/types/mmhall
	@ln -s $(CURDIR)/mmhall/* build/types/mmhall/
	@for part in decoders benchmarks demo; do ln -s $(CURDIR)/$$part build/types/mmhall/$$part; done
	@cd build/types && $(CURDIR)/$(PYTHON) -m mypy --config-file $(CURDIR)/pyproject.toml -p mmhall

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
