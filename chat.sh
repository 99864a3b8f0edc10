#!/usr/bin/env bash
# A conversation in the terminal. bash chat.sh [outs/demo]; RUN=name is outs/name; without either the run trained last, else release/chat
source "$(dirname -- "$0")/scripts/environment.sh"
exec "$PYTHON" "$MIRACLE/chat.py" ${RUN:+--run "$RUN"} "$@"
