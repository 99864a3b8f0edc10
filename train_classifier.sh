#!/usr/bin/env bash
# Train the attribute classifiers: one with ATTR=languagestyle bash train_classifier.sh, without ATTR all.
source "$(dirname -- "$0")/scripts/environment.sh"
[ -z "${ATTR:-}" ] || OPTIONS+=(--attribute "$ATTR")
exec ${RUN_PYTHON[@]+"${RUN_PYTHON[@]}"} "$MIRACLE/train_classifier.py" ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
