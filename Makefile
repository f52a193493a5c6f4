# `make demo` and `make test` do all set-up themselves: a virtual environment and the bundle of the nano checkpoint.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
SECONDS ?= 600
MINUTES ?= 10

RUN = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed
JUDGES = insightface dlib-bin face_recognition_models matplotlib
TYPINGS = $(VENV)/typings/tensorrt/__init__.pyi
CHECKPOINT = export/instantrt_nano/checkpoint
BUNDLE = $(OUT)/nano/bundle
PARALLEL = -n auto --maxprocesses 4 --dist worksteal  # a process takes up to 2 GB of memory
DRAWING = $(shell grep -rlE 'hypothesis|rng' tests --include='test_*.py')
SOURCES = $(shell find runtime engines export -name '*.py') $(shell find $(CHECKPOINT) -type f)

.PHONY: demo demo-serve load-test test check fuzz test-slow full-size full-size-numbers cuda-loop gpu bench bench-full bench-cpu bench-micro bundle nano nano-report picture clean

demo: $(BUNDLE)/bundle.json
	$(RUN) -m instantrt_bench.demo $(BUNDLE) $(CHECKPOINT) --out $(OUT)/demo

# Starts a server, sends it a request, takes a picture of its page, stops it.
demo-serve: $(BUNDLE)/bundle.json
	$(RUN) -m instantrt_bench.serving.demo $(BUNDLE) --out $(OUT)/demo-serve

# 500 requests of every kind from 32 clients, then the same ones alone; 10 to 20 minutes. docs/serving.md has the others.
load-test: $(BUNDLE)/bundle.json
	$(RUN) -m instantrt_bench.serving load $(BUNDLE) --out $(OUT)/load/load.json

test: check
	$(RUN) -m pytest $(PARALLEL)

# `make test` draws the same random inputs in every run; this draws others for so many seconds, or until a test fails.
# Each round prints its seed as options of pytest, with which a failure is repeated: `pytest OPTIONS TEST`.
fuzz: $(INSTALLED)
	rm -rf $(OUT)/fuzz
	@end=$$(($$(date +%s) + $(SECONDS))); \
	while left=$$((end - $$(date +%s))); [ $$left -gt 0 ]; do \
		options="--hypothesis-profile=fuzz --hypothesis-seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')"; \
		echo "$$options"; \
		PYTEST_ADDOPTS="$$options" timeout --foreground --signal=INT $$left \
			$(RUN) -m pytest --shared $(OUT)/fuzz --exitfirst $(PARALLEL) $(DRAWING); \
		status=$$?; [ $$status -eq 0 ] || [ $$status -eq 124 ] || exit $$status; \
	done

check: $(INSTALLED) $(TYPINGS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m mypy

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow

# SDXL's dimensions, random weights: export and plans of all networks. 10 to 25 minutes, 13 GB of memory, 21 GB of disk.
full-size: $(INSTALLED)
	$(RUN) -m instantrt_bench.full_size --out $(OUT)/full-size

full-size-numbers: $(INSTALLED)
	$(RUN) -m instantrt_bench.full_size.numbers --out $(OUT)/full-size-numbers

cuda-loop: $(BUNDLE)/bundle.json
	PYTHONPATH=tests $(RUN) -m doubles.cuda_loop $(BUNDLE) $(CHECKPOINT) --out $(OUT)/cuda

# What only a real GPU can tell: docs/gpu.md. MINUTES bounds it; nothing is installed on a machine that has torch.
gpu:
	PYTHONPATH=runtime:engines:export:bench:$$PYTHONPATH $(PYTHON) -m instantrt_bench.gpu_check \
		--minutes $(MINUTES) --out $(OUT)/gpu $(if $(wildcard .whl/*.whl),--wheels .whl)

PEOPLE = $(OUT)/nano/people/manifest.json
SUITE = $(RUN) -m instantrt_bench.suite $(BUNDLE) $(CHECKPOINT) --manifest $(PEOPLE) --guidance-scale 3 --out $(OUT)/bench

bench: $(BUNDLE)/bundle.json $(PEOPLE)
	$(SUITE)

bench-full: $(BUNDLE)/bundle.json $(PEOPLE)
	$(SUITE) --full

$(PEOPLE): $(INSTALLED)
	$(RUN) -m instantrt_bench.nano.manifest $(@D)

# Read by `instantrt bench compare` and `bench report`, like all other results.
bench-micro: $(INSTALLED)
	mkdir -p $(OUT)/bench
	$(RUN) -m pytest bench/micro --benchmark-json=$(OUT)/bench/micro.json

bench-cpu: $(BUNDLE)/bundle.json
	$(VENV)/bin/instantrt bench latency $(BUNDLE) --checkpoint $(CHECKPOINT) --scenarios nano-gate \
		--require-ratio 3 --require-overhead-us 100 --out $(OUT)/bench-cpu/bench-cpu.json

bundle: $(BUNDLE)/bundle.json

# Trains anew, from two photos, what is committed in $(CHECKPOINT): about two hours on two cores. Goes on where it was
# stopped; `--again vae` and the like repeat a stage and those after it.
nano: $(INSTALLED)
	rm -rf $(OUT)/nano/trained
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --nproc-per-node 2 -m instantrt_nano.training \
		$(OUT)/nano/work $(OUT)/nano/trained

# What that checkpoint can do, through the runtime: nano.json and two contact sheets.
nano-report: $(BUNDLE)/bundle.json
	$(RUN) -m instantrt_bench.nano $(BUNDLE) --out $(OUT)/nano

# The README's picture: what `make demo` made, without its title and its times, which differ from machine to machine.
picture: demo
	$(RUN) -c "from PIL import Image; demo = Image.open('$(OUT)/demo/demo.png').crop((0, 58, 2064, 502)); \
		demo.resize((1548, 333)).save('docs/images/demo.jpg', quality=88, optimize=True)"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Judges of the face stage and a second portrait. With their requirements a second opencv would come along.
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps $(JUDGES)
	touch $@

# TensorRT's type stubs, beside the environment: they require TensorRT itself, and five lines of them do not parse.
$(TYPINGS): $(INSTALLED)
	$(VENV)/bin/pip install --quiet --no-deps --upgrade --target $(VENV)/typings tensorrt-stubs==10.13.0.35.1
	sed -i -E 's/(\(self[^,]*, )in: /\1in_: /; s/channel_axis: int\) ->/channel_axis: int = 0) ->/' \
		$(VENV)/typings/tensorrt_bindings/tensorrt.pyi
	touch $@

$(BUNDLE)/bundle.json: $(INSTALLED) $(SOURCES)
	$(VENV)/bin/instantrt export $(CHECKPOINT) --out $(BUNDLE) --min-size 64x64 --max-size 256x256

clean:
	rm -rf $(OUT) dist build
