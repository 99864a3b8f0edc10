#!/usr/bin/env bash
# Train the coherence model alone. bash train_nli.sh
source "$(dirname "$0")/scripts/environment.sh"
exec "$PYTHON" train_nli.py "${OPTIONS[@]}" "$@"
