#!/usr/bin/env bash
# An OpenAI-compatible server. bash serve.sh [outs/demo] [--port 8000]; RUN=name is outs/name; without either the run trained last, else release/chat
source "$(dirname -- "$0")/scripts/environment.sh"
if [ "${MIRACLE_ENV:-}" != current ] && ! asks_for_help "$@" && ! "$PYTHON" -c "import fastapi, uvicorn, prometheus_client" 2> /dev/null; then
    echo "installing fastapi, uvicorn and prometheus_client (once)"
    "$PYTHON" -m pip install --quiet "fastapi>=0.115,<1" "uvicorn>=0.30,<1" "prometheus_client>=0.20,<1" || {
        echo "error: the server's packages cannot be installed (pip says why above)" >&2
        exit 2
    }
fi
exec "$PYTHON" "$MIRACLE/serve.py" ${RUN:+--run "$RUN"} "$@"
