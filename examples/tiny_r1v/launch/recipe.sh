#!/usr/bin/env bash
# The whole recipe; --help says how.
set -euo pipefail
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
The whole recipe: data -> train experts and baselines -> pick checkpoints -> merge by every method
-> evaluate -> table. A stage that is done is not done again; after an interruption the same command
resumes.

  examples/tiny_r1v/launch/recipe.sh [options] [-- key=value ...]

  --profile    3b|quickstart     default 3b; quickstart: the same on the CPU, in hours
  --framework  verl|easyr1       default verl
  --algorithms lipo,grpo,dapo    default all; the experts of the first are merged
  --experts    math,structure,ocr,mixture
                                 default all; merging takes two of the first three
  --gpus N, --nodes N, --submit URL, --until TIME, --model PATH, --no-check: as for train.sh
  --data DIR                     default data/tiny_r1v/<profile>
  --output DIR                   default runs/<profile>/<framework>
  --dry-run                      print the commands, do nothing
  -- key=value ...               settings for the framework, in every training run
END
}

OPTIONS=(--profile --framework --algorithms --experts --gpus --nodes --submit --until --model --data
    --output --dry-run --no-check --help)
profile=3b framework=verl algorithms=$(IFS=,; echo "${ALGORITHMS[*]}")
experts=$(IFS=,; echo "${EXPERTS[*]}")
data='' output='' model='' gpus='' dry_run=false check=true
passed=()
while (($#)); do
    case $1 in
        --profile | --framework | --algorithms | --experts | --data | --output | --model | --gpus)
            value_of "$1" $#
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --nodes | --submit | --until)
            value_of "$1" $#
            passed+=("$1" "$2")
            shift 2
            ;;
        --no-check) check=false passed+=("$1") && shift ;;
        --dry-run) dry_run=true && shift ;;
        --help) usage && exit ;;
        --) shift && break ;;
        *) unknown_option "$1" "${OPTIONS[@]}" ;;
    esac
done
one_of --profile "$profile" "${PROFILES[@]}"
one_of --framework "$framework" "${FRAMEWORKS[@]}"
IFS=, read -ra algorithms <<<"$algorithms"
IFS=, read -ra experts <<<"$experts"
for algorithm in "${algorithms[@]}"; do one_of --algorithms "$algorithm" "${ALGORITHMS[@]}"; done
for expert in "${experts[@]}"; do one_of --experts "$expert" "${EXPERTS[@]}"; done

data=$(realpath -m "${data:-$repository/data/tiny_r1v/$profile}")
output=$(realpath -m "${output:-$repository/runs/$profile/$framework}")
if [[ $profile == quickstart ]]; then
    base=${model:-$repository/examples/quickstart/base_model} device=cpu
    evaluation=(--max-tokens 64 --temperature 1 --reward tasks.quickstart/math=exact
        tasks.quickstart/structure=exact tasks.quickstart/ocr=ocr)
else
    base=${model:-Qwen/Qwen2.5-VL-3B-Instruct} device=cuda
    evaluation=(--max-tokens 2048 --reward template=think_boxed)
fi
cd "$repository"
here=examples/tiny_r1v/launch
passed+=(--profile "$profile" --framework "$framework" --data "$data")
[[ -z $gpus ]] || passed+=(--gpus "$gpus")
[[ -z $model ]] || passed+=(--model "$model")
! $dry_run || passed+=(--dry-run)

# stage NAME COMMAND...: runs the command unless it has ended well before.
stage() {
    local mark=$output/stages/$1
    shift
    if $dry_run; then
        show "$@"
    elif [[ -f $mark && $(<"$mark") == "$(show "$@")" ]]; then
        echo "Done before: $(basename "$mark")"
    else
        echo
        echo "$(basename "$mark"): $(show "$@")"
        run "$@" || {
            local status=$?
            echo "The stage $(basename "$mark") ended with $status; the same command resumes there." >&2
            exit "$status"
        }
        mkdir -p "$output/stages"
        show "$@" >"$mark"
    fi
}

# A finished run resumes from its last checkpoint, if at all; the optimisers of the others are two
# thirds of what they take.
drop_optimisers() {
    local last folder
    last=$("$python" -m examples.tiny_r1v.launch.resume "$framework" "$1/checkpoints")
    for folder in "$1"/checkpoints/global_step_*; do
        [[ $folder == */global_step_$last ]] || rm -f "$folder"/actor/optim_*.pt
    done
}

if [[ $profile == 3b ]] && $check && ! $dry_run; then
    "$python" -m examples.tiny_r1v.launch.disk "$output" --model "$base" \
        --runs $((${#algorithms[@]} * ${#experts[@]}))
fi
if [[ $profile == quickstart ]]; then
    stage data "$python" -m examples.tiny_r1v.launch.quickstart_data "$data"
else
    for expert in "${experts[@]}"; do
        stage "data-$expert" "$python" -m examples.tiny_r1v.data "$expert" --output "$data"
    done
fi

runs=()
for algorithm in "${algorithms[@]}"; do
    for expert in "${experts[@]}"; do
        folder=$output/$algorithm-$expert
        runs+=("$folder")
        run "$here/train.sh" --algorithm "$algorithm" --expert "$expert" --output "$folder" \
            "${passed[@]}" -- "$@"
        $dry_run || drop_optimisers "$folder"
    done
done

merging=0
for expert in "${experts[@]}"; do [[ $expert == mixture ]] || merging=$((merging + 1)); done
if ((merging < 2)); then
    echo "Trained. There is nothing to merge: that takes two experts."
    exit
fi
stage table "$python" -m examples.tiny_r1v.table --base "$base" --data "$data" \
    --output "$output/table" --merged "${algorithms[0]}" --device "$device" "${runs[@]}" \
    -- "${evaluation[@]}"
