# What people type here. Everything happens in .venv, which is made when it is first needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint pictures constraints clean

demo: $(VENV)/.installed                 ## run a real study on handwritten digits
	$(BIN)/sweeper run digits

test: $(VENV)/.installed-dev             ## lint, types, floors, and the tests but for the slow ones
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -rs
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		echo "There is no Chrome or Chromium here: make test-all would leave out what the report looks like in a browser."

test-all: $(VENV)/.installed-dev         ## all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -rs -m "slow or not slow" --nbmake tests notebooks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pictures: $(VENV)/.installed-dev         ## draw README's pictures anew from a study of the digits, and run the notebooks (needs a Chrome)
	tmp=$$(mktemp -d) && here=$$PWD && cd $$tmp && $$here/$(BIN)/sweeper run digits && \
		$$here/$(BIN)/sweeper report digits --format svg && \
		cp runs/digits/figures/accuracy-l2.svg runs/digits/figures/surface-l1-l2.svg runs/digits/figures/curves.svg \
			runs/digits/figures/losses.svg runs/digits/figures/timeline.svg $$here/docs/images/ && rm -r $$tmp
	PLOTLY_RENDERER=png $(BIN)/pytest --nbmake --overwrite notebooks

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
