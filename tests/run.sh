#!/usr/bin/env bash
# The test command: sets up .venv in the checkout (once), then lint, types and tests.
# Leaves nothing outside the checkout but the model cache (${SPARSERM_CACHE:-${XDG_CACHE_HOME:-~/.cache}/sparserm}).
# Arguments go to pytest: bash tests/run.sh tests/store -k lock
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$(bash tests/setup.sh test)
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/lint-imports"
exec "$venv/bin/python" -m pytest "$@"
