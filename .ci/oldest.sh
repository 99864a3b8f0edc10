#!/usr/bin/env bash
# Make .venv with the oldest versions that requirements.txt names and that go together.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet uv
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --resolution lowest-direct --requirement requirements.txt
cp requirements.txt .venv/installed.txt # so that the scripts do not set it up again
