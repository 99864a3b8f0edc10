#!/usr/bin/env bash
# Generate and score with a trained run. bash gen_cvae.sh --target lyrical,optimistic
source "$(dirname -- "$0")/scripts/environment.sh"
exec ${RUN_PYTHON[@]+"${RUN_PYTHON[@]}"} "$MIRACLE/gen_cvae.py" ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
