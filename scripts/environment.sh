# Sourced by every shell script: where Python is, and options from environment variables. Makes .venv where it is missing.
#
#   MIRACLE_ENV=current   use the python that is active now instead of .venv
#   PRESET= RUN= SCHEMA= BASE=   become --preset, --run, --schema, --base
#   NPROC=2   training, generation and scoring in so many processes, on a GPU each where there are GPUs
#
# The folder stays the caller's, so that the paths that a user types are what they mean; $MIRACLE is the repository.
# Runs under bash 3.2, macOS's own: there "${OPTIONS[@]}" of an empty array is an unbound variable, so scripts write
# ${OPTIONS[@]+"${OPTIONS[@]}"} (tests/scripts/test_shell.py looks for what 3.2 lacks).

set -euo pipefail
MIRACLE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

if [ "${MIRACLE_ENV:-}" = current ]; then
    PYTHON=${PYTHON:-python3}
else
    PYTHON=$MIRACLE/.venv/bin/python
    if ! cmp -s "$MIRACLE/requirements.txt" "$MIRACLE/.venv/installed.txt"; then
        echo "setting up .venv from requirements.txt (once; MIRACLE_ENV=current uses your own environment instead)"
        [ -x "$PYTHON" ] || "${PYTHON3:-python3}" -m venv "$MIRACLE/.venv"
        "$PYTHON" -m pip install --quiet --requirement "$MIRACLE/requirements.txt" || {
            echo "error: the packages cannot be installed (pip says why above: network, proxy, certificates or disk); the same command goes on" >&2
            exit 2
        }
        cp "$MIRACLE/requirements.txt" "$MIRACLE/.venv/installed.txt"
        echo "environment ready"
    fi
fi
export PYTHONPATH="$MIRACLE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 # our modules, not what lies in the caller's folder

asks_for_help() { # whether one of the words is --help or -h, which needs no further packages
    local word
    for word in "$@"; do
        case $word in --help | -h) return 0 ;; esac
    done
    return 1
}

RUN_PYTHON=("$PYTHON")
[ "${NPROC:-1}" = 1 ] || RUN_PYTHON+=(-m common.launch "$NPROC")

OPTIONS=()
[ -z "${PRESET:-}" ] || OPTIONS+=(--preset "$PRESET")
[ -z "${RUN:-}" ] || OPTIONS+=(--run "$RUN")
[ -z "${SCHEMA:-}" ] || OPTIONS+=(--schema "$SCHEMA")
[ -z "${BASE:-}" ] || OPTIONS+=(--base "$BASE")
