# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo

.PHONY: demo test lint install clean

demo: $(VENV)/.demo
	$(BIN)/python -m jaxad.main --config configs/demo.py --workdir $(WORKDIR)

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

install: $(VENV)/.demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# an installation stamp per extra: pip runs again only when pyproject.toml has changed
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build *.egg-info
