.PHONY: test lint demo

test:
	bash scripts/test.bash

lint:
	bash scripts/lint.bash

demo:
	bash scripts/demo.bash
