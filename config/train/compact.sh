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

finetune() { # arguments: stage, run, checkpoint and teacher (names of runs, or "" for none), settings
  local changes=(stage="$1")
  if [ -n "$3" ]; then changes+=(checkpoint="$RUNS/$3/checkpoint.pt"); fi
  if [ -n "$4" ]; then changes+=(distillation.teachers=["$RUNS/$4/checkpoint.pt"]); fi
  muse finetune config/train/compact.yaml --data "$DATA" -o "$RUNS/$2" --set "${changes[@]}" "${@:5}"
}

finetune wide wide "" ""
finetune outlines outlines wide ""
finetune distilled distilled outlines outlines
finetune distilled third_unread outlines outlines "$UNREAD" sources.2.weight=2
finetune narrow narrow_1 "" outlines distillation.share=0.5 "$UNREAD" sources.2.weight=3
finetune narrow narrow_2 narrow_1 third_unread "$UNREAD" sources.2.weight=2
finetune narrow narrow narrow_2 distilled
python -m experiments.areas.prepare "$DATA"
finetune areas areas narrow narrow

python -m experiments.areas.average "$RUNS/narrow/checkpoint.pt" "$RUNS/areas/checkpoint.pt" muse_pipeline/inference/built_in/compact.pt
cd muse_pipeline/inference/built_in
muse export compact.pt -o compact-fp32.onnx --check-images "$DATA/brca-m2c/images"
muse export compact.pt -o compact-int8.onnx --precision int8 --calibration "$DATA/brca-m2c/images" \
  --check-images "$DATA/brca-m2c/images"
