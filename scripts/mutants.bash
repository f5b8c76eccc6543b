#!/usr/bin/env bash
# Put small mistakes (mutants) one at a time into the modules that pyproject.toml names under [tool.mutmut], and see whether a test fails.
#   bash scripts/mutants.bash [MUTANT...]     as 'xvoken.recall*'
# Those that are done in mutants/ are not done again, unless they are named: when tests have changed, begin with rm -r mutants.
# All of them take ten minutes on a quiet machine of 2 cores. Prints a table by module, and the mutants that no test finds.
source "$(dirname "$0")/common.bash"
install_environment mutants test,mutants
unset PYTHONPATH           # the tests are to find the mutants, in mutants/, and not the modules here
export OMP_NUM_THREADS=1   # one core a mutant
mutmut run --max-children 1 "$@"
exec python scripts/mutants.py
