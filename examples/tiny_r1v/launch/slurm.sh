#!/usr/bin/env bash
# One training run as a Slurm job; to be submitted from the repository's root:
#   sbatch --nodes 2 examples/tiny_r1v/launch/slurm.sh --algorithm lipo --expert math [...]
# takes the options of train.sh but --nodes and --gpus. With several nodes it starts a Ray cluster of
# them. Submitted again, or requeued, it goes on from the last checkpoint. A run trains in one job at
# a time: with --job-name lipo-math --dependency=singleton its jobs wait for each other. Repository,
# data, output and Python environment must be seen by every node. Your cluster's partition, account
# and modules: options of sbatch, and the environment that you submit from.
#SBATCH --job-name=tiny-r1v
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?This is a job of Slurm: sbatch examples/tiny_r1v/launch/slurm.sh ...}"
here=examples/tiny_r1v/launch
if [[ ! -f $here/lib.sh ]]; then
    echo "Submit it from the repository's root: $SLURM_SUBMIT_DIR has no $here" >&2
    exit 2
fi
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$here/lib.sh"

gpus=${SLURM_GPUS_ON_NODE:?Ask Slurm for GPUs: --gpus-per-node=8}
nodes=$SLURM_JOB_NUM_NODES
for argument in "$@"; do
    [[ $argument != --nodes && $argument != --gpus ]] ||
        die "$argument is an option of sbatch here: --nodes, --gpus-per-node"
done
if ((nodes == 1)); then
    run "$here/train.sh" --gpus "$gpus" "$@"
    exit
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
port=$((6379 + SLURM_JOB_ID % 1000)) # two jobs on one node do not meet
export RAY_ADDRESS=$head:$port
ray_options=(--num-gpus "$gpus" --num-cpus "${SLURM_CPUS_PER_TASK:-64}" --disable-usage-stats --block)
workers=()
trap '((${#workers[@]} == 0)) || kill "${workers[@]}" 2>/dev/null || true' EXIT

# Slurm ends the steps with the job, and with them Ray and all that it started on their nodes.
srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port "$port" "${ray_options[@]}" &
workers+=($!)
for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$host" \
        bash -c "until ray start --address $RAY_ADDRESS ${ray_options[*]}; do sleep 5; done" &
    workers+=($!)
done
"$python" -m examples.tiny_r1v.launch.await_ray --nodes "$nodes"
run "$here/train.sh" --gpus "$gpus" --nodes "$nodes" "$@"
