#!/usr/bin/env bash
# The tiny bases in dataset/base/, anew: a teacher writes dialogues, they are cleaned, a decoder and an encoder read them.
# For one GPU; what is there in WORK (outs/pretraining) is not done again.
#   bash scripts/pretrain_tiny.sh            DIALOGUES=100000 FURTHER=text.gz WORK=there bash scripts/pretrain_tiny.sh
PRESET='' RUN='' SCHEMA='' BASE=''
source "$(dirname -- "$0")/environment.sh"
WORK=${WORK:-outs/pretraining} DECODER=$MIRACLE/data/bases/smollm2/decoder ENCODER=$MIRACLE/data/bases/smollm2/encoder
MORE=()
[ -z "${FURTHER:-}" ] || MORE=(--further "$FURTHER")
bash "$MIRACLE/scripts/get_bases.sh" smollm2
"$PYTHON" -m pretraining.teacher --decoder "$DECODER" --out "$WORK/written" --dialogues "${DIALOGUES:-330000}"
[ -s "$WORK/text/cleaning.json" ] || "$PYTHON" -m pretraining.cleaning "$WORK/written" --out "$WORK/text"
[ -s "$WORK/decoder/training.json" ] || "$PYTHON" -m pretraining.decoder --text "$WORK/text" --out "$WORK/decoder" ${MORE[@]+"${MORE[@]}"}
[ -s "$WORK/encoder/training.json" ] || "$PYTHON" -m pretraining.encoder --text "$WORK/text" --teacher "$ENCODER" --out "$WORK/encoder" ${MORE[@]+"${MORE[@]}"}
echo "the bases are in $WORK/decoder and $WORK/encoder; BASE=$WORK bash pipeline.sh starts from them"
