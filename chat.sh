#!/usr/bin/env bash
# A conversation in the terminal with a trained run. bash chat.sh [outs/demo]; RUN=name is outs/name
source "$(dirname -- "$0")/scripts/environment.sh"
exec "$PYTHON" "$MIRACLE/chat.py" ${RUN:+"outs/$RUN"} "$@"
