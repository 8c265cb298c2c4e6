#!/usr/bin/env bash
# One node of the Ray cluster at RAY_ADDRESS, for slurm.sh:
#   ray_node.sh ADDRESS GPUS CPUS [COMMAND ...]
# ADDRESS is this node's own. With a command it is the head, and runs it; the batch system ends Ray
# with the step.
set -euo pipefail
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

start=("${ray[@]}" start --node-ip-address "$1" --num-gpus "$2" --num-cpus "$3" --disable-usage-stats)
shift 3
if (($#)); then
    "${start[@]}" --head --port "${RAY_ADDRESS#*:}"
    exec "$@"
fi
until timeout 5 bash -c ">/dev/tcp/${RAY_ADDRESS/://}" 2>/dev/null; do sleep 2; done # the head starts
exec "${start[@]}" --address "$RAY_ADDRESS" --block
