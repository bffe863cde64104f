# Everything a newcomer needs, on a machine with Python 3.11 or newer and make:
#
#   make demo      judge the false alarms and lesions of a made-up patient; prints where the report is
#   make test      the fast tests                    make slow      the long simulations
#   make lint      ruff and mypy                     make coverage  branch coverage of the statistical core
#   make docs      the documentation, strictly       make pages     refresh help texts and study tables in it
#   make bench     the benchmarks
#   make study NAME=null-validity [ARGS=--quick]     one study; writes studies/results/
#   make oracles   peers in environments of their own (network); make constraints  new pins; make clean
#
# Each target creates .venv and installs what it needs; nothing is installed again while
# pyproject.toml and constraints.txt stay as they are.
#
#   PYTHON=python3.12       the interpreter (default: the first of python3.11, 3.12, ... that is found)
#   TORCH_INDEX=URL         where torch comes from, e.g. https://download.pytorch.org/whl/cpu
#   WORKERS=N  ARGS=...     test processes (default: the cores); more arguments for pytest or the study

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
TORCH_INDEX ?=
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
NAME ?=
ARGS ?=

BIN := $(VENV)/bin
PINS := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
CORE := $(VENV)/.installed-core-$(PINS)
DEV := $(VENV)/.installed-dev-$(PINS)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# One linear-algebra thread a test process: two processes of two threads each only wait for one another.
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help print-python demo test slow lint format coverage docs pages bench study oracles install constraints clean

help:
	@sed -n '3,16s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found: install one or say make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make a venv: install python3-venv" >&2; rm -rf $(VENV); exit 2; }

$(CORE): | $(BIN)/python
	@echo "installing anatrust into $(VENV) (once; a minute or two)"
	@$(PIP) -e .
	@rm -f $(VENV)/.installed-core-* && touch $@

$(DEV): | $(CORE)
	@echo "installing the development tools into $(VENV) (once; a few minutes)"
	@$(PIP) -e '.[dev]'
	@rm -f $(VENV)/.installed-dev-* && touch $@

install: $(DEV)

print-python:
	@echo $(PYTHON)

demo: $(CORE)
	@$(BIN)/anatrust demo -o out/demo $(ARGS)

test: $(DEV)
	$(PYTEST) -n $(WORKERS) --dist loadfile -q $(ARGS)

slow: $(DEV)
	$(PYTEST) -n $(WORKERS) --dist worksteal -q -m slow --timeout 1800 $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The rooms whose every branch carries a guarantee; lines that need a GPU are listed apart in pyproject.toml.
# Numba tells coverage about a function when it compiles it, hence a cache of its own, empty at the start.
coverage: $(DEV)
	@cache=$$(mktemp -d) && NUMBA_CACHE_DIR=$$cache $(PYTEST) -q -n $(WORKERS) \
		tests/statistics tests/rejection tests/conformal \
		src/anatrust/statistics src/anatrust/rejection src/anatrust/conformal \
		--cov=anatrust.statistics --cov=anatrust.rejection --cov=anatrust.conformal --cov-branch \
		--cov-report=term-missing:skip-covered --cov-fail-under=100 $(ARGS); \
	code=$$?; rm -rf "$$cache"; exit $$code

docs: $(DEV)
	$(BIN)/python tools/study_docs.py --check
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html
	$(BIN)/python tools/check_site.py docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

# After a change of the command line: what its commands print goes into the reference.
pages: $(DEV)
	$(BIN)/python tools/run_pages.py --update docs/reference/command-line.md
	$(BIN)/python tools/study_docs.py

bench: $(DEV)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

study: $(DEV)
	@test -n "$(NAME)" || { echo "make: which study? say make study NAME=..., names: $(BIN)/anatrust study --help" >&2; exit 2; }
	$(BIN)/anatrust study $(NAME) $(ARGS)

# Peers that cannot live in our environment get one each, made from oracles/NAME.txt.
oracles: $(patsubst oracles/%.txt,.oracles/%/.installed,$(wildcard oracles/*.txt))

.oracles/%/.installed: oracles/%.txt
	$(PYTHON) -m venv .oracles/$*
	.oracles/$*/bin/python -m pip install --quiet -r $<
	@touch $@

constraints: $(DEV)
	$(BIN)/python tools/pin_constraints.py > constraints.txt.new && mv constraints.txt.new constraints.txt

clean:
	rm -rf $(VENV) .oracles out docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
