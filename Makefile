# Two words to start with:  make demo   (trains a LoRA on this machine)    make test   (runs every test)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Threads: two on busy cores are slower than one, so the tests keep to one; the demo takes what torch finds.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help demo test quick check format bench bench-gpu docs clean

help:
	@echo "make demo    train a LoRA on the embedded base, look at runs/demo/report.html   (about 4 minutes)"
	@echo "make test    every test                                      make quick   without the slow ones"
	@echo "make check   format, lint, floors, types                     make format  mend what can be mended"
	@echo "make bench   CPU seconds against a bare loop                 make docs    docs/reference.md"
	@echo "make bench-gpu   full-size networks on one GPU, beside the plain diffusers + peft loop"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	rm -rf runs/demo
	HF_HUB_OFFLINE=1 $(BIN)/cinelora demo --out runs/demo

test: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal

quick: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python benchmarks/run.py
	$(TEST_ENV) $(BIN)/python benchmarks/cogvideox.py

bench-gpu: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/gpu.py

docs: $(VENV)/.installed-dev
	$(BIN)/python -c "from cinelora.config.write import reference; open('docs/reference.md', 'w').write(reference())"

clean:
	rm -rf build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
