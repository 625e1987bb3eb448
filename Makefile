# What people type here. Everything happens in .venv, which is made when it is first needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint constraints clean

demo: $(VENV)/.installed                 ## run a real study on handwritten digits
	$(BIN)/sweeper run digits

test: $(VENV)/.installed-dev             ## lint, types, floors, and the tests but for the slow ones
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest

test-all: $(VENV)/.installed-dev         ## all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -m "slow or not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

constraints: $(VENV)/.installed-dev      ## write down the versions that are installed now
	(head -n 1 constraints.txt; $(BIN)/pip freeze --exclude-editable) > constraints.new && mv constraints.new constraints.txt

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing into $(VENV) (a few minutes when it is first done) …"
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
