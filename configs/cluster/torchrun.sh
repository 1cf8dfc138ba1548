#!/bin/bash
# Two nodes of four GPUs by torchrun; on every node the same line, with its own NODE_RANK from 0:
#
#   NODE_RANK=1 MASTER_ADDR=first-node bash configs/cluster/torchrun.sh
#
# One machine: NNODES=1 bash configs/cluster/torchrun.sh. Lightning finds torchrun by its variables, also inside SLURM.
# Runs and prompt caches must lie where every node sees them: all processes write one cache, the first one the run.
set -euo pipefail
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$PWD/cache}"

torchrun \
  --nnodes "${NNODES:-2}" \
  --node_rank "${NODE_RANK:-0}" \
  --nproc_per_node "${GPUS:-4}" \
  --master_addr "${MASTER_ADDR:-127.0.0.1}" \
  --master_port "${MASTER_PORT:-29500}" \
  -m moe_tune fit \
  --config configs/olmoe_mmlu.yaml \
  --config configs/trainer/ddp.yaml \
  --trainer.num_nodes "${NNODES:-2}" \
  --trainer.devices "${GPUS:-4}" \
  --runs_root runs
