#!/usr/bin/env bash
# One training run of the recipe; --help says how.
set -euo pipefail
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Trains one expert or baseline, or goes on from its last checkpoint.

  examples/tiny_r1v/launch/train.sh --algorithm lipo --expert math [options] [-- key=value ...]

  --algorithm lipo|grpo|dapo
  --expert    math|structure|ocr|mixture
  --framework verl|easyr1        default verl
  --profile   3b|quickstart      default 3b; quickstart: a tiny model on the CPU, in minutes
  --gpus N                       per node: 1, 4 or 8; default: all that nvidia-smi lists.
                                 quickstart: ranks on this CPU, default 1
  --nodes N                      default 1. More: RAY_ADDRESS names a Ray cluster that has them
  --submit URL                   as a job of the Ray cluster with this dashboard, http://head:8265;
                                 every node sees this repository, data and output under the same paths
  --model PATH                   another base model: a folder or a Hub id
  --data DIR                     default data/tiny_r1v/<profile>
  --output DIR                   default runs/<profile>/<framework>/<algorithm>-<expert>
  --dry-run                      print the commands, do nothing
  --no-check                     start on a machine that lacks something
  -- key=value ...               settings for the framework, in its own syntax; they win

Ctrl-C ends everything that the run started; the same command goes on from its last checkpoint.
A folder holds one set of settings: other ones need another --output, so does each run of a sweep.
PYTHON names another interpreter than python.
END
}

OPTIONS=(--algorithm --expert --framework --profile --gpus --nodes --submit --model --data --output
    --dry-run --no-check --help)
framework=verl profile=3b algorithm='' expert='' gpus='' nodes=1 submit='' model='' data='' output=''
dry_run=false check=true
while (($#)); do
    case $1 in
        --algorithm | --expert | --framework | --profile | --gpus | --nodes | --submit | --model | --data | --output)
            value_of "$1" $#
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --dry-run) dry_run=true && shift ;;
        --no-check) check=false && shift ;;
        --help) usage && exit ;;
        --) shift && break ;;
        *) unknown_option "$1" "${OPTIONS[@]}" ;;
    esac
done
one_of --algorithm "$algorithm" "${ALGORITHMS[@]}"
one_of --expert "$expert" "${EXPERTS[@]}"
one_of --framework "$framework" "${FRAMEWORKS[@]}"
one_of --profile "$profile" "${PROFILES[@]}"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "--nodes $nodes: a number of nodes, 1 or more"
if [[ $profile == quickstart ]]; then
    [[ $framework == verl ]] || die "--profile quickstart: EasyR1 does not run without a GPU; use verl"
    [[ $nodes == 1 && -z $submit ]] || die "--profile quickstart: it runs on this machine alone"
    gpus=${gpus:-1} model=${model:-$repository/examples/quickstart/base_model}
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || die "--gpus $gpus: a number of ranks, 1 or more"
else
    gpus=${gpus:-$(nvidia-smi -L 2>/dev/null | wc -l || true)}
    [[ $gpus != 0 ]] || die "nvidia-smi finds no GPU here; on the machine that has them, or with --gpus N"
    one_of --gpus "$gpus" 1 4 8
fi
if ((nodes > 1)) && [[ -z ${RAY_ADDRESS:-} && -z $submit ]]; then
    die "--nodes $nodes: set RAY_ADDRESS to a Ray cluster of $nodes nodes (ray start --head on one," \
        "ray start --address=HEAD:6379 on the others), use --submit, or launch/slurm.sh"
fi

name=$algorithm-$expert
data=$(realpath -m "${data:-$repository/data/tiny_r1v/$profile}")
output=$(realpath -m "${output:-$repository/runs/$profile/$framework/$name}")
checkpoints=$output/checkpoints
cd "$repository" # the launchers and configurations are modules and paths of it
here=examples/tiny_r1v
resume=("$python" -m examples.tiny_r1v.launch.resume "$framework" "$checkpoints")
claim=("$python" -m examples.run_folder "$output" 9)
if $dry_run; then
    resume+=(--look)
else
    mkdir -p "$checkpoints"
    # The training inherits this descriptor, so it holds the folder even if this script is killed.
    exec 9<>"$output/lock"
    "${claim[@]}" $$
fi
step=$("${resume[@]}")
metrics=$output/metrics-from-$step.jsonl

prepare=() composed=$output/easyr1.yaml
if [[ $framework == verl ]]; then
    arguments=(
        "--config-dir=$repository/$here/config/verl" +tiny_r1v=common "+tiny_r1v/size=$profile"
    )
    if [[ $profile == quickstart ]]; then
        entry=lipo_verl.cpu
        arguments+=("trainer.n_gpus_per_node=$gpus")
    else
        entry=verl.trainer.main_ppo
        arguments+=("+tiny_r1v/machine=gpus_$gpus" "trainer.nnodes=$nodes")
    fi
    environment=+ray_kwargs.ray_init.runtime_env.env_vars
    arguments+=(
        "+tiny_r1v/expert=$expert" "+tiny_r1v/algorithm=$algorithm"
        "recipe.data=$(quoted "$data")" "recipe.output=$(quoted "$output")"
        "trainer.experiment_name=$name"
        "$environment.VERL_FILE_LOGGER_PATH=$(quoted "$metrics")"
        "$environment.TENSORBOARD_DIR=$(quoted "$output/tensorboard")"
        "hydra.run.dir=$(quoted "$output/hydra")"
    )
    [[ -z $model ]] || arguments+=("actor_rollout_ref.model.path=$(quoted "$model")")
else
    # LIPO needs the hook of lipo_verl.easyr1; the baselines run EasyR1 as it is.
    entry=verl.trainer.main
    [[ $algorithm != lipo ]] || entry=lipo_verl.easyr1
    prepare=("$python" -m "examples.tiny_r1v.config.easyr1.compose" --algorithm "$algorithm"
        --expert "$expert" --gpus "$gpus" --data "$data" --output "$output" --target)
    arguments=("config=$composed" "trainer.nnodes=$nodes")
    [[ -z $model ]] || arguments+=("worker.actor.model.model_path=$model")
fi
command=("$python" -m "$entry" "${arguments[@]}" "$@")

checking=("$python" -m "examples.tiny_r1v.launch.check" --profile "$profile" --framework "$framework"
    --gpus "$gpus" --output "$output" --files "$data/$expert/train.parquet" "$data/$expert/val.parquet")
# Under another name until it is known that the run in this folder has these settings.
keeping=("$python" -m "examples.tiny_r1v.launch.settings" "$output" "$entry"
    "${arguments[@]/#"config=$composed"/"config=$composed.new"}" "$@")
if [[ -n $submit ]]; then
    # In the job, since this machine need not have the GPUs, nor the framework.
    job=$name-$(date +%Y%m%d-%H%M%S)
    inner="cd $(printf %q "$repository") && "
    inner+="exec 9<>$(printf %q "$output/lock") && $(show "${claim[@]}") \$\$ && "
    ((${#prepare[@]} == 0)) || inner+="$(show "${prepare[@]}" "$composed.new") && "
    inner+="$(show "${keeping[@]}") && "
    ((${#prepare[@]} == 0)) || inner+="$(show mv "$composed.new" "$composed") && "
    ! $check || inner+="$(show "${checking[@]}") && "
    inner+="exec $(show "${command[@]}")"
    command=(ray job submit --address "$submit" --submission-id "$job" -- bash -c "$inner")
    prepare=() check=false
fi

if $dry_run; then
    ! $check || show "${checking[@]}"
    ((${#prepare[@]} == 0)) || show "${prepare[@]}" "$composed"
    show "${command[@]}"
    exit
fi

((${#prepare[@]} == 0)) || "${prepare[@]}" "$composed.new"
[[ -n $submit ]] || "${keeping[@]}"
((${#prepare[@]} == 0)) || mv "$composed.new" "$composed"
finished=$output/finished
what=$(show "${command[@]}" | sed 's/metrics-from-[0-9]*//; s/--submission-id [^ ]*//')
if [[ -f $finished && $(<"$finished") == "$what" ]]; then
    echo "$name is finished: $checkpoints"
    exit
fi
! $check || "${checking[@]}"
if [[ $framework == easyr1 ]]; then
    # EasyR1 empties its log at every start; this way each start has its own.
    ln -sfn "../$(basename "$metrics")" "$checkpoints/experiment_log.jsonl"
fi
show "${command[@]}" >"$output/command.txt"
((step == 0)) || echo "$name goes on from step $step"
[[ -z $submit ]] || exec 9>&- # the job claims the folder itself

status=0
run "$python" -m examples.tiny_r1v.launch.supervise "$output/train.log" "${command[@]}" || status=$?
if ((status != 0)); then
    [[ -z $submit ]] || ray job stop --address "$submit" "$job" || true
    echo "$name ended with $status; the same command goes on from its last checkpoint." \
        "All output: $output/train.log" >&2
    exit "$status"
fi
echo "$what" >"$finished"
echo "$name is finished: $checkpoints"
