# Two commands do all their set-up and their job: `make quickstart` and `make test`.
#
#   make quickstart   label a real video, learn from it, measure, reconstruct it (VIDEO=path for one of your own)
#   make test         all tests (PYTEST_ARGS="-k camera" chooses)
#   make check        ruff and the architecture test
#   make bench        measured speed and memory, as tables; benchmarks/ has more, which need data named
#
# PYTHON=python3.12 chooses the interpreter. TORCH=existing uses the torch that this interpreter already has, such as a
# CUDA build, in an environment of its own.

PYTHON ?= python3
TORCH ?=
VIDEO ?=
PYTEST_ARGS ?=
export VIDEO

ifeq ($(TORCH),)
VENV := .venv
CONSTRAINTS := constraints.txt
else ifeq ($(TORCH),existing)
VENV := .venv-existing
CONSTRAINTS := $(VENV)/constraints.txt
else
$(error TORCH=$(TORCH) is not known: leave it out, or say TORCH=existing to use the torch that $(PYTHON) has)
endif

RUN := $(VENV)/bin/python
CREATED := $(VENV)/.created
FOR_QUICKSTART := $(VENV)/.installed-quickstart
FOR_TEST := $(VENV)/.installed-test
BENCHMARKS := card data_rate inference labelling loading matching processes scoring training_step windows worlds
INSTALL := $(RUN) -m pip install --no-compile -c $(CONSTRAINTS)

.PHONY: help quickstart test check bench
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

quickstart: $(FOR_QUICKSTART)
	$(RUN) -m flow3r.cli quickstart $(if $(VIDEO),--video "$$VIDEO")

test: $(FOR_TEST)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: $(FOR_TEST)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest tests/test_architecture.py

bench: $(FOR_QUICKSTART)
	@set -e; for name in $(BENCHMARKS); do $(RUN) -m benchmarks.$$name; done

# A stamp is as old as the installation that it stands for: pip runs again only when what it reads has changed.
$(FOR_QUICKSTART): pyproject.toml $(CONSTRAINTS) | $(CREATED)
	$(INSTALL) -e ".[samples,train]"
	@touch $@

# What the tests need holds what the quickstart needs.
$(FOR_TEST): pyproject.toml $(CONSTRAINTS) | $(CREATED)
	$(INSTALL) -e ".[samples,train,test]"
	@touch $(FOR_QUICKSTART) $@

fail = { echo "error: $(strip $(1))" >&2; exit 1; }

# A Python without ensurepip (Debian's without python3-venv) can still give its environment a pip from its own.
$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(call fail,\
		flow3r needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.12)
ifeq ($(TORCH),existing)
	@$(PYTHON) -c 'import torch' || $(call fail,\
		TORCH=existing: torch does not import in $(PYTHON). Install it there$(comma) name another PYTHON$(comma) or leave TORCH out)
endif
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
		$(PYTHON) -m venv $(if $(TORCH),--system-site-packages) $(VENV); \
	elif $(PYTHON) -c 'import venv, pip' 2>/dev/null; then \
		$(PYTHON) -m venv --without-pip $(if $(TORCH),--system-site-packages) $(VENV) && \
		$(PYTHON) -m pip install --quiet --target "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" pip; \
	else $(call fail,\
		$(PYTHON) can make no environment: it has neither ensurepip nor pip. On Debian and Ubuntu: apt install python3-venv); fi
ifeq ($(TORCH),existing)
	@# An interpreter that is itself in an environment does not hand its packages on: point at those that hold torch.
	@$(RUN) -c 'import torch' 2>/dev/null || \
		$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
		> "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/existing.pth"
	@$(RUN) -c 'import torch' || $(call fail,\
		TORCH=existing: torch imports in $(PYTHON) but not in $(VENV) made from it)
endif
	@touch $@

# The existing torch is pinned to what it is, so that pip refuses to replace it where it is too old.
ifeq ($(TORCH),existing)
$(CONSTRAINTS): constraints.txt | $(CREATED)
	@{ sed '/^torch==/d' constraints.txt && \
		$(RUN) -c 'from importlib.metadata import version; print("torch==" + version("torch"))'; } > $@
endif
comma := ,
