#!/usr/bin/env bash
source "$(dirname -- "$0")/environment.sh"
exec "$PYTHON" -m scripts.check_data ${SCHEMA:+--schema "$SCHEMA"} "$@"
