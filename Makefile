# make demo: a prompt becomes demo.mp4.   make test: lint, types and all tests.   Both need python3 >= 3.11, g++, make.

PYTHON ?= python3
OUT ?= gpu-check
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
WHEEL := $(VENV)/wheel
# For the tests of GPU kernels, interpreted. Apart from .venv, whose torch may bring another version for its own use.
TRITON := triton==3.6.0

# The root of the checkout must not be importable: its folder `kernels` would hide the PyPI package of that name.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PACKAGES := $(patsubst %/__init__.py,%,$(wildcard kernels/__init__.py runtime/__init__.py export/__init__.py bench/__init__.py))
CSRC := $(wildcard csrc/*.cpp csrc/*.h)
BUILD := pyproject.toml setup.py csrc $(CSRC)

.PHONY: demo install test lint wheel types pytest gate bench gpu-check clean

demo: $(VENV)/generate.stamp
	$(BIN)/packdit generate "a red circle moves right on a black background" --out demo.mp4
	@echo "The video is $(CURDIR)/demo.mp4"

install: $(VENV)/test.stamp

test: lint types pytest

lint: install
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/clang-format --dry-run --Werror $(CSRC)

# What users get, for the type checker and the tests: it shadows the editable install through PYTHONPATH. Built anew each
# time, because a deleted file makes no prerequisite newer. Only the compiled module in build/ is kept, which setuptools
# rebuilds when a source is newer; a stale .py there would be shipped.
wheel: install
	rm -rf $(WHEEL) $(VENV)/dist
	test ! -d build || find build -type f ! -name '_C.*.so' -delete
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(VENV)/dist .
	$(PIP) --no-deps --target $(WHEEL) $(VENV)/dist/*.whl

# From inside the wheel's folder, where nothing of the checkout can be found under a second name.
types: wheel
	cd $(WHEEL) && ../bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache $(PACKAGES:%=-p packdit.%)

pytest: wheel
	PYTHONPATH="$(CURDIR)/$(WHEEL):$(CURDIR)/$(VENV)/triton" $(BIN)/pytest --quiet --timeout=300

# The full table of what the GPU kernels compile to; `make test` checks a part of it.
gate: wheel
	PYTHONPATH="$(CURDIR)/$(WHEEL):$(CURDIR)/$(VENV)/triton" $(BIN)/python -m packdit.kernels.aot bench/results/aot.csv

# The rows and pictures in bench/results/ that a CPU can give, on a machine that does nothing else.
bench: install
	$(BIN)/packdit bench kernels --csv bench/results/kernels.csv --plot bench/results/kernels.png
	$(BIN)/packdit bench peers --csv bench/results/peers.csv --plot bench/results/peers.png

# All that needs a GPU, in at most eight minutes: files into OUT, their rows named after COMMIT. It needs neither another
# target nor git; PYTHON has torch, and packdit by `pip install --no-deps --no-build-isolation --editable .`
gpu-check:
	@$(PYTHON) -c "from importlib.util import find_spec as f; exit(not (f('torch') and f('packdit') and f('packdit.bench')))" \
		|| { echo "gpu-check: $(PYTHON) has no torch or no packdit; for the latter:" \
		"$(PYTHON) -m pip install --no-deps --no-build-isolation --editable ." >&2; exit 2; }
	@env -u TRITON_INTERPRET $(PYTHON) -m packdit.bench.gpu_check --out "$(OUT)" --commit "$(COMMIT)"

$(VENV)/python.stamp:
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	touch $@

# Editable, so that the tools in .venv always run the sources as they are.
$(VENV)/generate.stamp: $(VENV)/python.stamp constraints.txt $(BUILD) $(PACKAGES:%=%/__init__.py)
	$(PIP) setuptools pybind11
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/test.stamp: $(VENV)/generate.stamp
	$(PIP) "packdit[test]"
	$(PIP) --no-deps --upgrade --target $(VENV)/triton $(TRITON)
	touch $@

# Everything that the targets above made, except .venv itself.
clean:
	rm -rf build *.egg-info kernels/_C.*.so demo.mp4 gpu-check $(WHEEL) $(VENV)/dist $(VENV)/*.stamp
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
