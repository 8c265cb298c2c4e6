# make demo   the whole method on this machine, without a GPU (about half an hour on 2 cores)
# make evidence   the study of docs/evidence.md, many hours; SIZE=small: three trainings
# make evidence-merging   that page's bench of merge methods, hours; SIZE=small: a quarter of one
# make check  lint, types and the two packages' quick tests (about three minutes)
# make test   lint, types and all tests (about half an hour)
# make base   makes the quickstart's base model again, which the repository ships
# make test-verl VERSION=0.8.0   LIPO inside another verl; VERSION=main takes VERL_HOME=checkout
# make test-easyr1 EASYR1_HOME=checkout EASYR1_PYTHON=python   LIPO inside EasyR1 (docs/easyr1.md)
# All but the last set up .venv first: about 5 minutes and 4 GB, once.

VENV := .venv
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo evidence evidence-merging check test lint test-verl test-easyr1 setup base help
.DELETE_ON_ERROR:

help:
	@sed -n '/^# /!q; s/^# //p' Makefile

demo: setup
	@$(VENV)/bin/python -m examples.quickstart.run

SIZE := full
evidence: setup
	@$(VENV)/bin/python -m examples.evidence.study --size $(SIZE)

evidence-merging: setup
	@$(VENV)/bin/python -m examples.evidence.merging.bench --size $(SIZE)

lint: setup
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/python -m mypy

PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint
	@$(PYTEST) -m "not slow and not real_stack" --timeout 60 tests/amm tests/lipo_verl tests/test_docs.py

test: lint
	@$(PYTEST)

# The other verl goes ahead of the installed one, on the libraries of that.
VERL_HOME := $(if $(filter-out main,$(VERSION)),$(VENV)-verl/$(VERSION))
ifeq ($(MAKECMDGOALS)$(VERL_HOME),test-verl)
$(error make test-verl VERSION=0.8.0, or VERSION=main VERL_HOME=checkout of verl)
endif

test-verl: setup
	@if [ ! -d "$(VERL_HOME)/verl" ]; then \
		$(VENV)/bin/python -m pip download --quiet --no-deps --dest $(VERL_HOME) \
			verl==$(VERSION) \
		&& $(VENV)/bin/python -m zipfile -e $(VERL_HOME)/verl-*.whl $(VERL_HOME); fi
	@PYTHONPATH=$(abspath $(VERL_HOME)) $(VENV)/bin/python -m pytest \
		tests/lipo_verl/test_verl_plugin.py tests/lipo_verl/test_probe.py

test-easyr1:
	@test -d "$(EASYR1_HOME)/verl" -a -n "$(EASYR1_PYTHON)" || { echo "make test-easyr1" \
		"EASYR1_HOME=checkout EASYR1_PYTHON=python: a checkout of EasyR1, and the Python that has" \
		"its requirements (docs/easyr1.md)" >&2; exit 2; }
	@$(EASYR1_PYTHON) -c 'import math_verify, rapidfuzz, pytest' 2>/dev/null || { echo \
		"$(EASYR1_PYTHON) does not run, or has no math-verify, rapidfuzz or pytest. Here, in this" \
		"repository: $(EASYR1_PYTHON) -m pip install '.[rewards]' pytest" >&2; exit 2; }
	@EASYR1_HOME="$(EASYR1_HOME)" $(EASYR1_PYTHON) -m pytest tests/lipo_verl/easyr1 \
		tests/examples/tiny_r1v/test_easyr1_config.py

base: setup
	@$(VENV)/bin/python -m examples.quickstart.base_model

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "verl needs Python 3.10, 3.11 or 3.12; none was found. Install one, or name it:" \
			"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): verl, Ray, vLLM and torch for the CPU," \
		"about 5 minutes"
	@$(PYTHON) -m venv $(VENV)
	@pip="$(VENV)/bin/python -m pip"; log=$(VENV)/setup.log; index=; \
	run() { "$$@" >>$$log 2>&1 || { tail -n 20 $$log >&2; \
		echo "The set-up failed; all of its output is in $$log. make $(MAKECMDGOALS) tries again." >&2; \
		exit 1; }; }; \
	run $$pip install --upgrade "pip>=24"; \
	if ! $$pip download --no-deps --dest $(VENV)/wheels torch==2.13.0+cpu >>$$log 2>&1; then \
		echo "The package index has no torch 2.13.0+cpu: adding PyTorch's own, $(TORCH_INDEX)"; \
		index="--extra-index-url $(TORCH_INDEX)"; fi; \
	run $$pip install --find-links $(VENV)/wheels $$index --editable ".[cpu,quickstart,recipe,test]"
	@rm -rf $(VENV)/wheels
	@touch $@
