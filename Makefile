# make demo, make test: everything else is for people who change moegs.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
BUILT_FROM := pyproject.toml constraints.txt CMakeLists.txt $(wildcard moegs/render/native/src/*)
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt
REBUILD = $(INSTALL) --quiet --no-build-isolation --no-deps --editable .
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint native sanitize bench clean

demo: .venv/.installed  ## train two experts and a router on a clip made on the spot, into runs/demo
	$(BIN)/python recipes/moe_n3v.py --out runs/demo --budget small --steps 4000
	@echo
	@echo "Look at runs/demo/contact_sheet.png; the numbers are in runs/demo/results.json."
	@echo "Render more:  $(BIN)/moegs render runs/demo/refined --data runs/demo/clip --out runs/demo/spiral --camera spiral --format mp4"

test: .venv/.developing  ## the whole test-suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: .venv/.developing
	$(BIN)/ruff check .
	$(BIN)/mypy

native: .venv/.developing  ## compile what changed in the C++ kernels and install it into .venv
	$(REBUILD)

sanitize: .venv/.developing  ## the native tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(REBUILD) --config-settings=build-dir=build/sanitize --config-settings=cmake.define.MOEGS_SANITIZE=ON
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -k native tests; status=$$?; $(REBUILD) && exit $$status

bench: .venv/.developing
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only $(ARGS)

clean:
	rm -rf .venv build dist runs .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v[:2] < (3, 11) and \
	  "moegs needs Python 3.11 or newer, %s is %d.%d; name another: make PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv .venv || ($(PYTHON) -m pip install virtualenv && $(PYTHON) -m virtualenv .venv)

# Built in the environment itself, with pinned build tools: what was compiled once is not compiled again.
.venv/.installed: .venv/bin/python $(BUILT_FROM)
	$(INSTALL) scikit-build-core nanobind cmake ninja
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

.venv/.developing: .venv/.installed
	$(INSTALL) --no-build-isolation --editable ".[dev]"
	@touch $@
