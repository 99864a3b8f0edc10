# Sourced by every shell script: where Python is, and options from environment variables. Makes .venv where it is missing.
#
#   MIRACLE_ENV=current   use the python that is active now instead of .venv
#   PRESET= RUN= SCHEMA= BASE=   become --preset, --run, --schema, --base

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${MIRACLE_ENV:-}" = current ]; then
    PYTHON=${PYTHON:-python3}
else
    PYTHON=.venv/bin/python
    if ! cmp -s requirements.txt .venv/installed.txt; then
        echo "setting up .venv from requirements.txt (once; MIRACLE_ENV=current uses your own environment instead)"
        [ -x "$PYTHON" ] || "${PYTHON3:-python3}" -m venv .venv
        "$PYTHON" -m pip install --quiet --requirement requirements.txt
        cp requirements.txt .venv/installed.txt
        echo "environment ready"
    fi
fi

OPTIONS=()
[ -z "${PRESET:-}" ] || OPTIONS+=(--preset "$PRESET")
[ -z "${RUN:-}" ] || OPTIONS+=(--run "$RUN")
[ -z "${SCHEMA:-}" ] || OPTIONS+=(--schema "$SCHEMA")
[ -z "${BASE:-}" ] || OPTIONS+=(--base "$BASE")
