#!/usr/bin/env bash
# One training run of the recipe; --help says how.
set -euo pipefail
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Trains one expert or baseline, or resumes from its last checkpoint.

  examples/tiny_r1v/launch/train.sh --algorithm lipo --expert math [options] [-- key=value ...]

  --algorithm lipo|grpo|dapo
  --expert    math|structure|ocr|mixture
  --framework verl|easyr1        default verl
  --profile   3b|quickstart      default 3b; quickstart: a tiny model on the CPU, in minutes
  --gpus N                       per node; default: all that nvidia-smi lists.
                                 quickstart: ranks on its CPU, default 1
  --nodes N                      default 1. More: RAY_ADDRESS names a Ray cluster that has them
  --submit URL                   as a job of the Ray cluster with this dashboard, http://head:8265;
                                 every node sees this repository, data and output under the same paths
  --until TIME                   when this machine is taken away, as `date` reads it: saves every 20
                                 steps, and each step in the half hour before (not in EasyR1)
  --model PATH                   another base model: a folder or a Hub id
  --data DIR                     default data/tiny_r1v/<profile>
  --output DIR                   default runs/<profile>/<framework>/<algorithm>-<expert>
  --smoke                        two steps of 64 prompts in the folder OUTPUT-smoke, each time anew, and
                                 what they say about the real run
  --dry-run                      print the commands, do nothing
  --no-check                     start on a machine that lacks something
  -- key=value ...               settings for the framework, in its own syntax; they win

Ctrl-C ends everything that the run started; the same command resumes from its last checkpoint.
A folder holds one set of settings: other ones need another --output, so does each run of a sweep.
PYTHON names an interpreter; without it, the active environment's is taken.
END
}

OPTIONS=(--algorithm --expert --framework --profile --gpus --nodes --submit --until --model --data
    --output --smoke --dry-run --no-check --help)
framework=verl profile=3b algorithm='' expert='' gpus='' nodes=1 submit='' until='' model='' data=''
output='' smoke=false dry_run=false check=true
job=() # the options of the same run inside a job
while (($#)); do
    case $1 in
        --algorithm | --expert | --framework | --profile | --gpus | --nodes | --submit | --until | --model | --data | --output)
            value_of "$1" $#
            value=$2
            [[ $1 != --data && $1 != --output ]] || value=$(realpath -m "$2")
            printf -v "${1#--}" '%s' "$value"
            [[ $1 == --submit ]] || job+=("$1" "$value")
            shift 2
            ;;
        --smoke) smoke=true job+=("$1") && shift ;;
        --dry-run) dry_run=true && shift ;;
        --no-check) check=false job+=("$1") && shift ;;
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
    [[ -z $submit ]] || die "--profile quickstart: --submit is for clusters with GPUs"
    gpus=${gpus:-1} model=${model:-$repository/examples/quickstart/base_model}
else
    gpus=${gpus:-$(nvidia-smi -L 2>/dev/null | wc -l || true)}
    [[ $gpus != 0 ]] || die "nvidia-smi finds no GPU here; on the machine that has them, or with --gpus N"
fi
[[ $gpus =~ ^[1-9][0-9]*$ ]] || die "--gpus $gpus: a number, 1 or more"
for machine in 8 4 2 1; do ((gpus < machine)) || break; done
if ((nodes > 1)) && [[ -z ${RAY_ADDRESS:-} && -z $submit ]]; then
    die "--nodes $nodes: set RAY_ADDRESS to a Ray cluster of $nodes nodes (docs/recipe/training.md)," \
        "use --submit, or launch/slurm.sh"
fi
if [[ -n $until ]]; then
    end=$(date -d "$until" +%s 2>/dev/null) ||
        die "--until $until: no time that date reads, such as 18:30, 2027-01-31 08:00 or @1800000000"
    save_from=$((end - (gpus * nodes == 1 ? 4500 : 1800))) # two steps and their checkpoints
fi

cd "$repository" # the launchers and configurations are modules and paths of it
echo "Python: $python" >&2
if [[ -n $submit ]]; then
    # All else in the job, since this machine need not have the GPUs, nor the framework.
    id=$algorithm-$expert-$(date +%Y%m%d-%H%M%S)
    inner="cd $(printf %q "$repository") && "
    [[ -z ${PYTHON:-} ]] || inner+="PYTHON=$(printf %q "$PYTHON") "
    inner+="exec $(show examples/tiny_r1v/launch/train.sh "${job[@]}" -- "$@")"
    command=("${ray[@]}" job submit --address "$submit" --submission-id "$id" -- bash -c "$inner")
    ! $dry_run || { show "${command[@]}" && exit; }
    run "${command[@]}" || {
        status=$?
        "${ray[@]}" job stop --address "$submit" "$id" || true
        exit "$status"
    }
    exit
fi

name=$algorithm-$expert
data=${data:-$repository/data/tiny_r1v/$profile}
output=${output:-$repository/runs/$profile/$framework/$name}
! $smoke || output+=-smoke
checkpoints=$output/checkpoints
here=examples/tiny_r1v
resume=("$python" -m examples.tiny_r1v.launch.resume "$framework" "$checkpoints")
if $dry_run; then
    resume+=(--look)
else
    mkdir -p "$output"
    # The training inherits this descriptor, so it holds the folder even if this script is killed.
    exec 9<>"$output/lock"
    "$python" -m examples.run_folder "$output" 9 $$
    ! $smoke || find "$output" -mindepth 1 ! -name lock -delete
    mkdir -p "$checkpoints"
    # One run for the loggers, however often it is resumed.
    [[ -f $output/run_id ]] || tr -d - </proc/sys/kernel/random/uuid | cut -c 1-21 >"$output/run_id"
    id=$(<"$output/run_id")
    export WANDB_RUN_ID=$id WANDB_RESUME=allow SWANLAB_RUN_ID=$id SWANLAB_RESUME=allow
fi
step=$("${resume[@]}")
metrics=$output/metrics-from-$step.jsonl

prepare=() extra=() composed=$output/easyr1.yaml
if [[ $framework == verl ]]; then
    arguments=(
        "--config-dir=$repository/$here/config/verl" +tiny_r1v=common "+tiny_r1v/size=$profile"
    )
    if [[ $profile == quickstart ]]; then
        entry=lipo_verl.cpu
    else
        entry=verl.trainer.main_ppo
        arguments+=("+tiny_r1v/machine=gpus_$machine")
    fi
    environment=+ray_kwargs.ray_init.runtime_env.env_vars
    arguments+=(
        "trainer.nnodes=$nodes" "trainer.n_gpus_per_node=$gpus"
        "+tiny_r1v/expert=$expert" "+tiny_r1v/algorithm=$algorithm"
        "recipe.data=$(quoted "$data")" "recipe.output=$(quoted "$output")"
        "trainer.experiment_name=$name"
        "$environment.VERL_FILE_LOGGER_PATH=$(quoted "$metrics")"
        "$environment.TENSORBOARD_DIR=$(quoted "$output/tensorboard")"
        "hydra.run.dir=$(quoted "$output/hydra")"
    )
    for variable in WANDB_RUN_ID WANDB_RESUME SWANLAB_RUN_ID SWANLAB_RESUME; do
        $dry_run || arguments+=("$environment.$variable=$(quoted "${!variable}")")
    done
    [[ -z $model ]] || arguments+=("actor_rollout_ref.model.path=$(quoted "$model")")
    [[ -z $until ]] || extra+=("+recipe.save_from=$save_from"
        trainer.checkpoint_callback_class=examples.tiny_r1v.launch.until.SaveFrom)
    ! $smoke || extra+=(data.train_batch_size=64 actor_rollout_ref.actor.ppo_mini_batch_size=64
        data.val_max_samples=64 trainer.total_training_steps=2 trainer.save_freq=2 trainer.test_freq=-1)
else
    # LIPO needs the hook of lipo_verl.easyr1; the baselines run EasyR1 as it is.
    entry=verl.trainer.main
    [[ $algorithm != lipo ]] || entry=lipo_verl.easyr1
    prepare=("$python" -m "examples.tiny_r1v.config.easyr1.compose" --algorithm "$algorithm"
        --expert "$expert" --gpus "$gpus" --data "$data" --output "$output" --target)
    arguments=("config=$composed" "trainer.nnodes=$nodes")
    [[ -z $model ]] || arguments+=("worker.actor.model.model_path=$model")
    [[ -z $until ]] || extra+=(trainer.save_freq=20)
    ! $smoke || extra+=(data.rollout_batch_size=64 data.mini_rollout_batch_size=64
        worker.actor.global_batch_size=64 trainer.max_steps=2 trainer.save_freq=2 trainer.val_freq=-1)
fi
command=("$python" -m "$entry" "${arguments[@]}" "${extra[@]}" "$@")
# Under another name until it is known that the run in this folder has these settings.
keeping=("$python" -m examples.tiny_r1v.launch.settings "$output" "$entry"
    "${arguments[@]/#"config=$composed"/"config=$composed.new"}" "${extra[@]}" "$@")
checking=("$python" -m examples.tiny_r1v.launch.check "$output" "${command[@]:2}")

if $dry_run; then
    ((${#prepare[@]} == 0)) || show "${prepare[@]}" "$composed"
    show "${command[@]}"
    exit
fi

((${#prepare[@]} == 0)) || "${prepare[@]}" "$composed.new"
"${keeping[@]}"
((${#prepare[@]} == 0)) || mv "$composed.new" "$composed"
finished=$output/finished
if cmp --silent "$output/settings.json" "$finished"; then
    echo "$name is finished: $checkpoints"
    exit
fi
! $check || "${checking[@]}"
((nodes == 1)) || "$python" -m examples.tiny_r1v.launch.await_ray --nodes "$nodes" --gpus "$gpus"
if [[ $framework == easyr1 ]]; then
    # EasyR1 empties its log at every start; this way each start has its own.
    ln -sfn "../$(basename "$metrics")" "$checkpoints/experiment_log.jsonl"
fi
show "${command[@]}" >"$output/command.txt"
((step == 0)) || echo "$name resumes from step $step"

status=0
run "$python" -m examples.tiny_r1v.launch.supervise "$output/train.log" "${command[@]}" || status=$?
if ((status != 0)); then
    echo "$name ended with $status; the same command resumes from its last checkpoint." \
        "All output: $output/train.log" >&2
    exit "$status"
fi
! $smoke || exec "$python" -m examples.tiny_r1v.launch.smoke "$framework" "$output"
cp "$output/settings.json" "$finished"
echo "$name is finished: $checkpoints"
