#!/usr/bin/env bash
# Train a preset on several machines: the same command on each of them.
#
#   NODES=2 MAIN=node0 examples/train_nodes.sh flow3r-warmup /shared/runs/flow3r-warmup
#
# NODES: how many machines. MAIN: the name of one of them, which the others can reach. GPUS: processes on this machine, by
# default one for each GPU. PORT: by default 29500. What follows the folder goes to `flow3r train` as it is. The folder must
# be one that all machines see. The same command goes on from the last checkpoint.
set -euo pipefail

preset=${1:?preset, such as flow3r-warmup} out=${2:?output folder that all machines share}
shift 2

exec torchrun --nnodes "${NODES:?number of machines}" --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "${MAIN:?name of one of the machines}:${PORT:-29500}" --rdzv-id "flow3r-$preset" \
    -m flow3r.cli train "$preset" -o "$out" "$@"
