#!/usr/bin/env bash
# Train the CVAE alone. bash train_cvae.sh --num-train-epochs 30
source "$(dirname -- "$0")/scripts/environment.sh"
exec ${RUN_PYTHON[@]+"${RUN_PYTHON[@]}"} "$MIRACLE/train_cvae.py" ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
