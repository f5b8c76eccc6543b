.PHONY: test lint demo bench bench-gpu test-ray test-crash mutants resolve release-check

# As the bash scripts do: .venv, unless another environment is active.
ifndef VIRTUAL_ENV
export PATH := $(CURDIR)/.venv/bin:$(PATH)
endif
# Photos for benchmarks/ctx.py: any folder.
PHOTOS ?= ../shared/coco_sample/mscoco/images

test:
	bash scripts/test.bash

lint:
	bash scripts/lint.bash

demo:
	bash scripts/demo.bash

# All of them run, also after one that fails; the exit status tells.
bench:
	failed=0; \
	for b in startup engines train tokenizing keys sharing retrieve search asking serving precision memory pages; do python benchmarks/$$b.py || failed=1; done; \
	python benchmarks/ctx.py $(PHOTOS) || failed=1; \
	exit $$failed

bench-gpu:
	bash scripts/bench_gpu.bash

test-ray:
	bash scripts/test_ray.bash

test-crash:
	python -m pytest tests/crash_matrix.py

# Which small mistakes in five modules no test would find.
mutants:
	bash scripts/mutants.bash

# Whether every Python that README.md names finds all packages: ray, and test, which has the other extras in it.
resolve:
	for v in 3.11 3.12 3.13 3.14; do \
	    python -m pip install --dry-run --quiet --python-version $$v --only-binary=:all: --target build/none '.[ray,sentences,test]' -c constraints.txt \
	        || exit 1; \
	done

# The sdist and the wheel, built and used as strangers would.
release-check:
	bash scripts/release_check.bash
