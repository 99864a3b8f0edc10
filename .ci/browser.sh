#!/usr/bin/env bash
# Bring what the tests in a browser need: Chromium with its driver (Debian's packages), and the page's and the driver's libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then
    SUDO=$([ "$(id -u)" = 0 ] || echo sudo)
    $SUDO apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $SUDO apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core > /dev/null
fi
"$PYTHON" -c "import gradio, selenium, mkdocs, llm" 2> /dev/null || "$PYTHON" -m pip install --quiet --requirement .ci/requirements.txt
