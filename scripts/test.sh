#!/usr/bin/env bash
# Run the tests, in two processes (MIRACLE_TEST_PROCESSES=1 for one, 0 for none of their own); arguments go to pytest.
# Sets itself up like every other command.
source "$(dirname -- "$0")/environment.sh"
cd "$MIRACLE"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the models are tiny, and there are several processes
exec "$PYTHON" -m pytest tests -q -m "not slow" -n "${MIRACLE_TEST_PROCESSES:-2}" --dist loadfile "$@"
