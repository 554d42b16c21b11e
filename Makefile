.PHONY: setup demo test check bench lock clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= model,dev

setup: $(VENV)/.ready                    # everything pinned by requirements.lock, into .venv

# The lock is used as constraints: a GPU machine takes the CUDA build of the same versions.
$(VENV)/.ready: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[$(EXTRAS)]'
	touch $@

demo: setup                              # built-in shards, built-in model: embed, then three searches
	$(BIN)/python -m demo.run

check: setup                             # format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check                              # two at a time: most tests wait as much as they compute
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: setup
	$(BIN)/python -m bench.model

lock: setup                              # after a change of dependencies; look at the diff
	$(BIN)/python -m pip install --quiet '.[model,dev,gcs,azure,bench]'
	$(BIN)/python -m pip freeze --exclude-editable --exclude bridgelake | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) demo/shards demo/out
