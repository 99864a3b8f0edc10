#!/usr/bin/env bash
source "$(dirname -- "$0")/environment.sh"
exec "$PYTHON" -m scripts.get_bases "$@"
