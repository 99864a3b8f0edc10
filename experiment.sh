#!/usr/bin/env bash
# Measure every cell of a grid and set the models side by side. bash experiment.sh experiments/demo.yaml [--dry-run]
source "$(dirname -- "$0")/scripts/environment.sh"
exec "$PYTHON" -m experiments ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
