#!/usr/bin/env bash
# Bring dialogues and labelled texts of other formats in. bash scripts/import_data.sh chats.json --output mine.jsonl
source "$(dirname -- "$0")/environment.sh"
exec "$PYTHON" -m scripts.import_data ${SCHEMA:+--schema "$SCHEMA"} "$@"
