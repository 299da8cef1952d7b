#!/usr/bin/env bash
# Times extract's forward pass against transformers, TransformerLens and the bare matrix products.
# Without --data it runs on the shipped pairs: bash examples/benchmarks/capture.sh --data FILE --pairs 64
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(bash "$root/tests/setup.sh")
case " $* " in
    *" --data "*) data=() ;;
    *) data=(--data "$root/examples/data/geography-test.jsonl") ;;
esac
exec "$venv/bin/python" "$root/examples/benchmarks/capture.py" "${data[@]}" "$@"
