#!/usr/bin/env bash
# A page in the browser to try a run with. RUN=demo bash playground.sh [--compare outs/other] [--port 7860]
source "$(dirname -- "$0")/scripts/environment.sh"
if [ "${MIRACLE_ENV:-}" != current ] && ! asks_for_help "$@" && ! "$PYTHON" -c "import gradio" 2> /dev/null; then
    echo "installing gradio (once)"
    "$PYTHON" -m pip install --quiet "gradio>=6.31,<7" || {
        echo "error: gradio cannot be installed (pip says why above)" >&2
        exit 2
    }
fi
exec "$PYTHON" "$MIRACLE/playground.py" ${RUN:+--run "$RUN"} "$@"
