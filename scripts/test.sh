#!/usr/bin/env bash
# Run the tests; arguments go to pytest. Sets itself up like every other command.
source "$(dirname -- "$0")/environment.sh"
cd "$MIRACLE"
exec "$PYTHON" -m pytest tests -q -m "not slow" "$@"
