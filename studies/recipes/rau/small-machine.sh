#!/usr/bin/env bash
# The same four stages on a laptop without a GPU, with untrained models of the real classes: minutes, and it shows that
# everything runs, saves, resumes and is used. Usage: small-machine.sh FOLDER   (must not exist yet)
set -euo pipefail
folder=$1
mkdir "$folder"
cd "$folder"
python -m anatrust.studies.recipes.rau_small .
for plan in sft grpo seg grpo-masks; do
  anatrust train "${plan%-masks}" "$plan.yaml"
done
anatrust annotate -i scan.png --reference other.png --reference-labels other_labels.png --names names.json -o out \
  --reasoner vlm --model qwen --adapter runs/sft --adapter runs/grpo --adapter runs/seg --masks runs/grpo-masks --sam2 sam2
