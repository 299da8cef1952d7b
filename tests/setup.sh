#!/usr/bin/env bash
# Makes the virtual environment .venv in the checkout and installs the package into it, once: a stamp holds the
# digest of what was asked for, so a second run installs nothing. Usage: setup.sh EXTRAS (such as "test").
# Prints the environment's folder on stdout.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=${1:-}
python=${PYTHON:-python3}
venv="$root/.venv"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "sparserm: expected Python 3.11 or newer as '$python', found $("$python" --version 2>&1 || true); set PYTHON" >&2
    exit 2
fi
wanted=$("$python" - "$root" "$extras" <<'PY'
import hashlib, pathlib, sys
root, extras = pathlib.Path(sys.argv[1]), sys.argv[2]
parts = [root.as_posix(), extras, sys.version, *((root / name).read_text() for name in ("pyproject.toml", "tests/constraints.txt", "tests/clients.txt"))]
print(hashlib.sha256("\n".join(parts).encode()).hexdigest())
PY
)
stamp="$venv/.sparserm-installed-${extras:-base}"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "installing sparserm${extras:+[$extras]} into $venv (once)" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    # torch comes first and pinned, so that nothing else pulls a newer build of it.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/tests/constraints.txt" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/tests/constraints.txt" -e "$root${extras:+[$extras]}" >&2
    # Client code that the tests run; what it asks for is not needed, and without it those tests are skipped.
    if [ "$extras" = test ]; then
        "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --implementation cp --python-version 3.11 --platform manylinux1_x86_64 --platform any \
            --dest "$venv/clients" -r "$root/tests/clients.txt" >&2 || echo "no client wheels to test with" >&2
        # What checks the report for accessibility in a browser; without npm that test is skipped.
        mkdir -p "$venv/axe"
        if ! { command -v npm > /dev/null && npm pack --silent --pack-destination "$venv/axe" axe-core@4.14.1 > /dev/null 2>&1 \
            && tar -xzf "$venv/axe/axe-core-4.14.1.tgz" -C "$venv/axe" package/axe.min.js; }; then
            echo "no axe-core to test with" >&2
        fi
    fi
    echo "$wanted" > "$stamp"
fi
echo "$venv"
