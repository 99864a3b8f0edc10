#!/usr/bin/env bash
source "$(dirname -- "$0")/environment.sh"
exec "$PYTHON" -m scripts.clean_data ${SCHEMA:+--schema "$SCHEMA"} "$@"
