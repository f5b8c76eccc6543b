.PHONY: test lint demo bench bench-gpu test-ray test-crash

test:
	bash scripts/test.bash

lint:
	bash scripts/lint.bash

demo:
	bash scripts/demo.bash

bench:
	for b in train tokenizing keys sharing retrieve search precision ctx memory; do python benchmarks/$$b.py; done

bench-gpu:
	python -c "import torchcodec" 2> /dev/null || python -m pip install --quiet -r requirements-torchcodec.txt -c constraints.txt
	for b in keys sharing retrieve search; do python benchmarks/$$b.py --device cuda:0; done

test-ray:
	bash scripts/test_ray.bash

test-crash:
	python -m pytest tests/crash_matrix.py
