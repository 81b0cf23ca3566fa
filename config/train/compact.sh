#!/usr/bin/env bash
# Train and export `compact` as it is shipped: config/train/compact.sh DATA
#
# DATA is a folder with brca-m2c/, nucls-cc0/, tnbc-nuclei/, ebhi-seg-colon/, oral-scc/ and nuinsseg-oesophagus/. Stages are written
# to runs/, from where an interrupted one resumes. The first takes about an hour on two cores, the last 35 minutes on one core.
set -euo pipefail
DATA=$(realpath "$1")
cd "$(dirname "$0")/../.."
RUNS=$PWD/runs
UNREAD='sources.2.exclude=["01_","02_","04_"]' # three patients of TNBC

finetune() { # arguments: recipe, run, settings
  muse finetune "config/train/$1.yaml" --data "$DATA" -o "$RUNS/$2" --set "${@:3}"
}

muse finetune config/train/compact.yaml --data "$DATA" -o "$RUNS/compact"
finetune compact_outlines compact_outlines checkpoint="$RUNS/compact/checkpoint.pt"
SECOND=$RUNS/compact_outlines/checkpoint.pt
finetune compact_distilled compact_distilled checkpoint="$SECOND" distillation.teachers=["$SECOND"]
finetune compact_distilled third_unread checkpoint="$SECOND" distillation.teachers=["$SECOND"] "$UNREAD" sources.2.weight=2
finetune compact_narrow narrow_1 distillation.teachers=["$SECOND"] distillation.share=0.5 "$UNREAD" sources.2.weight=3
finetune compact_narrow narrow_2 checkpoint="$RUNS/narrow_1/checkpoint.pt" \
  distillation.teachers=["$RUNS/third_unread/checkpoint.pt"] "$UNREAD" sources.2.weight=2
finetune compact_narrow compact_narrow checkpoint="$RUNS/narrow_2/checkpoint.pt" \
  distillation.teachers=["$RUNS/compact_distilled/checkpoint.pt"]
python -m experiments.areas.prepare "$DATA"
FOURTH=$RUNS/compact_narrow/checkpoint.pt
finetune compact_areas compact_areas checkpoint="$FOURTH" distillation.teachers=["$FOURTH"]

python -m experiments.areas.average "$FOURTH" "$RUNS/compact_areas/checkpoint.pt" muse_pipeline/inference/built_in/compact.pt
cd muse_pipeline/inference/built_in
muse export compact.pt -o compact-fp32.onnx --check-images "$DATA/brca-m2c/images"
muse export compact.pt -o compact-int8.onnx --precision int8 --calibration "$DATA/brca-m2c/images" \
  --check-images "$DATA/brca-m2c/images"
