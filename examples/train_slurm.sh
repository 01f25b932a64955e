#!/usr/bin/env bash
# Train a preset under SLURM, queued again until the weights are written.
#
#   sbatch --nodes 2 examples/train_slurm.sh flow3r-warmup /shared/runs/flow3r-warmup
#
# srun starts one process for each GPU, so that the signal before the time limit reaches them directly: they save and end
# with 0, and the job is queued again. A job that failed is not. What follows the folder goes to `flow3r train` as it is.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

preset=${1:?preset, such as flow3r-warmup} out=${2:?output folder that all machines share}
shift 2

mkdir -p "$out"
begun=$out/.job-$SLURM_JOB_ID
touch "$begun"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=${PORT:-29500}
# The variables of a task are known only in the task.
# shellcheck disable=SC2016
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
    exec python -m flow3r.cli train "$@"' train "$preset" -o "$out" "$@"

# Weights of before this job may be those of a shorter run.
[ "$out/model.safetensors" -nt "$begun" ] || scontrol requeue "$SLURM_JOB_ID"
