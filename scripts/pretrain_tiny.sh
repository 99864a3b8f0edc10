#!/usr/bin/env bash
# The tiny bases in dataset/base/, anew: a teacher writes dialogues, they are cleaned, a decoder and an encoder read them.
# One GPU, 20 minutes, or two and ten (CARDS="0 1"); every step is kept in outs/pretraining and not done again.
#   bash scripts/pretrain_tiny.sh            SHARDS=12 FURTHER=<text.gz> bash scripts/pretrain_tiny.sh
set -euo pipefail
cd "$(dirname -- "$0")/.."
PRESET='' RUN='' SCHEMA='' BASE='' source scripts/environment.sh
WORK=${WORK:-outs/pretraining}
FURTHER=${FURTHER:+--further $FURTHER}
bash scripts/get_bases.sh smollm2
"$PYTHON" -m pretraining.teacher --decoder data/bases/smollm2/decoder --out "$WORK/written" --dialogues "${DIALOGUES:-600000}"
[ -s "$WORK/text/cleaning.json" ] || "$PYTHON" -m pretraining.cleaning "$WORK/written" --out "$WORK/text"
[ -s "$WORK/decoder/training.json" ] || "$PYTHON" -m pretraining.decoder --text "$WORK/text" --out "$WORK/decoder" $FURTHER
[ -s "$WORK/encoder/training.json" ] || "$PYTHON" -m pretraining.encoder --text "$WORK/text" --teacher data/bases/smollm2/encoder --out "$WORK/encoder" $FURTHER
echo "the bases are in $WORK/decoder and $WORK/encoder; BASE=$WORK bash pipeline.sh starts from them"
