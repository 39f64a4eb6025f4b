# Every target needs only Python >= 3.10, a C++20 compiler and make: the tools and libraries it uses go
# into .venv, group by group (see [dependency-groups] in pyproject.toml).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet
export PYTHONPATH := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
CXX_FILES := $(shell find csrc cuda -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

.PHONY: build demo test test-cuda lint lint-python lint-cxx lint-native stubs bench peers wheel clean
.NOTPARALLEL:

# Where others use the cores too, threads that sleep while they wait are twice as fast as ones that spin.
demo test test-cuda: export OMP_WAIT_POLICY ?= passive

build: $(VENV)/group-build  ## compile in place: fastdl/_core*.so
	$(BIN)/cmake -S . -B build -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/cmake --build build

demo: build $(VENV)/group-demo  ## train LeNet on MNIST; DEMO_FLAGS=--smoke for a short run
	$(BIN)/python examples/demo_lenet.py $(DEMO_FLAGS)

test: build $(VENV)/group-test $(VENV)/torch  ## TEST_FLAGS=... go to pytest
	$(BIN)/python -m pytest -q -n 2 $(TEST_FLAGS)

EMULATED = build-emulated
test-cuda: $(VENV)/group-build $(VENV)/group-test $(VENV)/torch  ## kernels of cuda/, on the CPU
	$(BIN)/cmake -S . -B $(EMULATED) -G Ninja -DFASTDL_CUDA=EMULATED \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/cmake --build $(EMULATED)
	cp --parents -t $(EMULATED) pyproject.toml $$(find bench fastdl tests tools -name '*.py' -o -name '*.pyi')
	cd $(EMULATED) && PYTHONPATH=. ../$(BIN)/python -m pytest -q -n 2 tests -k cuda $(TEST_FLAGS)

lint: lint-python lint-cxx lint-native

lint-python: $(VENV)/group-build $(VENV)/group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_file_length.py

lint-cxx: $(VENV)/group-lint
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

lint-native: build $(VENV)/group-lint
	$(BIN)/python tools/check_isa_symbols.py build
	$(BIN)/python tools/make_stubs.py --check

stubs: build $(VENV)/group-lint  ## fastdl/_core.pyi, from the compiled module
	$(BIN)/python tools/make_stubs.py

bench: build $(VENV)/group-bench $(VENV)/torch  ## BENCH_FLAGS="--suite core --op softmax", ...
	$(BIN)/python -m bench $(or $(BENCH_FLAGS),--suite smoke)

peers: $(VENV)/group-peers $(VENV)/torch  ## what the bench compares with, and what draws its pictures

wheel: $(VENV)/group-wheel  ## dist/: sdist and a manylinux wheel, tested in an empty environment
	tools/make_wheel.sh $(BIN)
	tools/check_wheel.sh $(BIN) dist/fastdl-*.whl

clean:
	rm -rf build dist fastdl/_core*.so

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("fastdl needs Python >= 3.10")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade 'pip>=25.1'

$(VENV)/group-%: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --group $*
	@touch $@

$(VENV)/torch: | $(VENV)/bin/python
	$(BIN)/pip install torch==2.13.0
	@touch $@
