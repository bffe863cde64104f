#!/usr/bin/env bash
# RAU's stages on eight GPUs. Put cohort.csv, names.json and models/ beside the YAML files first.
# --estimate prints memory and hours of each stage; the weights are never downloaded by these commands.
set -euo pipefail
cd "$(dirname "$0")"
for stage in sft grpo seg; do
  anatrust train "$stage" "$stage.yaml" --estimate 8xA100-80GB
done
accelerate launch --multi_gpu --num_processes 8 -m anatrust train sft sft.yaml
accelerate launch --multi_gpu --num_processes 8 -m anatrust train grpo grpo.yaml
anatrust train seg seg.yaml                     # one GPU: about 20 million trained parameters
anatrust train grpo grpo-masks.yaml             # one GPU: completions are drawn one by one
