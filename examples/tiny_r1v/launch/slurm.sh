#!/usr/bin/env bash
# One training run, or the whole recipe, as a Slurm job; submitted from the repository's root:
#   sbatch --nodes 2 examples/tiny_r1v/launch/slurm.sh --algorithm lipo --expert math [...]
#   sbatch examples/tiny_r1v/launch/slurm.sh recipe --algorithms lipo,grpo [...]
# takes the options of train.sh, or after "recipe" those of recipe.sh, but --nodes, --gpus and --until.
# Several nodes become a Ray cluster. At the time limit the job ends, is requeued and resumes.
# Repository, data and output must be seen by every node. Variables of the environment you submit from:
#   PYTHON     the interpreter
#   CONTAINER  what stands between srun and its command: srun's own options for enroot, or a prefix:
#              '--container-image=/images/lipo.sqsh --container-mounts=/project'
#              'apptainer exec --nv --bind /project /images/lipo.sif'
#   INTERFACE  the network interface for Ray, NCCL and Gloo, such as ib0
#SBATCH --job-name=tiny-r1v
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
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

launcher=train.sh
[[ ${1:-} != recipe ]] || { launcher=recipe.sh && shift; }
gpus=${SLURM_GPUS_ON_NODE:?Ask Slurm for GPUs: --gpus-per-node=8}
for argument in "$@"; do
    [[ $argument != --nodes && $argument != --gpus && $argument != --until ]] ||
        die "$argument is an option of sbatch here: --nodes, --gpus-per-node, --time"
    [[ $argument != -- ]] || break
done
options=(--gpus "$gpus" --nodes "$SLURM_JOB_NUM_NODES")
[[ -z ${SLURM_JOB_END_TIME:-} ]] || options+=(--until "@$SLURM_JOB_END_TIME")

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# srun does not take the job's --cpus-per-task over.
on=(srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:?Ask Slurm for CPUs: --cpus-per-task}")
read -ra container <<<"${CONTAINER:-}"
cluster=() workers=()
if ((${#hosts[@]} > 1)); then
    [[ -z ${INTERFACE:-} ]] || export NCCL_SOCKET_IFNAME=$INTERFACE GLOO_SOCKET_IFNAME=$INTERFACE
    # address HOST: of INTERFACE, or the first that is not its loopback.
    address() {
        local command="hostname -I | cut -d ' ' -f 1"
        [[ -z ${INTERFACE:-} ]] ||
            command="ip -4 -o address show dev $INTERFACE | sed -E 's/.* inet ([0-9.]+).*/\1/'"
        "${on[@]}" --nodelist="$1" bash -c "$command"
    }
    RAY_ADDRESS=$(address "${hosts[0]}"):$((6379 + SLURM_JOB_ID % 1000)) # two jobs on one node do not meet
    export RAY_ADDRESS
    # Without these a head of Ray 2.59 wants the token of ~/.ray, and its nodes do not send it.
    RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(tr -d - </proc/sys/kernel/random/uuid)}
    export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_AUTH_TOKEN
    cluster=("$here/ray_node.sh" "${RAY_ADDRESS%:*}" "$gpus" "$SLURM_CPUS_PER_TASK")
    trap 'kill "${workers[@]}" 2>/dev/null || true' EXIT
    for host in "${hosts[@]:1}"; do
        "${on[@]}" --nodelist="$host" "${container[@]}" \
            "$here/ray_node.sh" "$(address "$host")" "$gpus" "$SLURM_CPUS_PER_TASK" &
        workers+=($!)
        # A trainer that has lost a node may wait for it for ten minutes and more.
        {
            tail --pid=$! -f /dev/null
            echo "Ray on $host has ended, and so does the job." >&2
            kill -TERM $$
        } &
        workers=($! "${workers[@]}") # the watch ends before what it watches
    done
fi

# Before the time limit: everything ends as with SIGTERM, and the job waits for its next turn.
limit=false status=0
trap 'limit=true; kill -TERM $$' USR1
run "${on[@]}" --nodelist="${hosts[0]}" "${container[@]}" "${cluster[@]}" \
    "$here/$launcher" "${options[@]}" "$@" || status=$?
! $limit || ((status == 0)) || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
