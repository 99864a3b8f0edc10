#!/usr/bin/env bash
# The whole main job: evaluators, CVAE, replies for every combination of aspects, scores. bash pipeline.sh --help
source "$(dirname -- "$0")/scripts/environment.sh"
exec ${RUN_PYTHON[@]+"${RUN_PYTHON[@]}"} -m scripts.pipeline ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
