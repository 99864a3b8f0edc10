#!/usr/bin/env bash
# Train the coherence model alone. bash train_nli.sh
source "$(dirname -- "$0")/scripts/environment.sh"
exec ${RUN_PYTHON[@]+"${RUN_PYTHON[@]}"} "$MIRACLE/train_nli.py" ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
