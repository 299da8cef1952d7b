#!/usr/bin/env bash
# The test command. It sets up .venv in the checkout (once), then runs lint, types, the import contracts and the tests.
#
#   bash tests/run.sh                      everything, on all processors
#   bash tests/run.sh --fast               lint, types and the tests that are not slow and need no model, server or browser
#   bash tests/run.sh --coverage           everything, with the share of lines that the tests run
#   bash tests/run.sh tests/store -k lock  only these tests, in this process, without lint and types
#
# It leaves nothing outside the checkout but the model cache (${SPARSERM_CACHE:-${XDG_CACHE_HOME:-~/.cache}/sparserm}).
# SPARSERM_TEST_WORKERS sets how many processes share the tests; by default there is one per processor.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$(bash tests/setup.sh test)
export PATH="$venv/bin:$PATH"

checks=yes
selection=()
case "${1:-}" in
    --fast)
        shift
        selection=(-m "not slow and not model and not ray and not s3 and not browser") ;;
    --coverage)
        shift
        selection=(--cov --cov-report=term:skip-covered) ;;
    "") ;;
    *) checks= ;;
esac

if [ -n "$checks" ]; then
    ruff check .
    ruff format --check .
    mypy
    lint-imports
    # Each process computes on one thread, since there is a process per processor.
    export OMP_NUM_THREADS=1
    selection+=(-n "${SPARSERM_TEST_WORKERS:-logical}" --dist loadfile --no-loadscope-reorder)
fi
exec python -m pytest "${selection[@]}" "$@"
