#!/usr/bin/env bash
# The paper's ten benchmarks for one model; --help says how.
set -euo pipefail
# shellcheck source=examples/tiny_r1v/launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/lib.sh"

usage() {
    cat <<'END'
Answers the paper's ten benchmarks with vLLM's server and VLMEvalKit, counts tokens, has VLMEvalKit score.

  examples/tiny_r1v/eval/run.sh --model models/3b/amm --name tiny-r1v-3b --vlmevalkit ~/VLMEvalKit

  --model DIR          a Hugging Face folder, or a Hub id
  --name NAME          what its results are called
  --vlmevalkit DIR     a checkout of open-compass/VLMEvalKit at e8e78f0, installed for its own Python
  --output DIR         default runs/vlmevalkit; what is in it is used again
  --prompt boxed|plain default boxed: ask for the form of the training data; plain: for the base model
  --data NAME...       default: all ten, by VLMEvalKit's names
  --gpus N             copies of the model, one on each; default 1
  --port N             default 8000
  --max-tokens N       default 2048
  --stage all|infer|score   default all; score needs no GPU
  --dry-run            print the commands, do nothing
  -- option ...        options of VLMEvalKit's run.py for scoring, such as --judge and --judge-base-url

Most benchmarks are scored by a judge, for which VLMEvalKit wants OPENAI_API_KEY (docs/recipe/evaluation.md).
PYTHON names another interpreter than python, VLMEVALKIT_PYTHON that of VLMEvalKit.
END
}

OPTIONS=(--model --name --vlmevalkit --output --prompt --data --gpus --port --max-tokens --stage
    --dry-run --help)
model='' name='' vlmevalkit='' output=runs/vlmevalkit prompt=boxed gpus=1 port=8000 max_tokens=2048
stage=all dry_run=false data=()
while (($#)); do
    case $1 in
        --model | --name | --vlmevalkit | --output | --prompt | --gpus | --port | --stage)
            value_of "$1" $#
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --max-tokens)
            value_of "$1" $#
            max_tokens=$2
            shift 2
            ;;
        --data)
            value_of "$1" $#
            shift
            while (($#)) && [[ $1 != --* ]]; do
                data+=("$1")
                shift
            done
            ;;
        --dry-run) dry_run=true && shift ;;
        --help) usage && exit ;;
        --) shift && break ;;
        *) unknown_option "$1" "${OPTIONS[@]}" ;;
    esac
done
[[ -n $model && -n $name && -n $vlmevalkit ]] || die "--model, --name and --vlmevalkit are needed; see --help"
[[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "--name $name: use letters, digits and . _ -"
one_of --prompt "$prompt" boxed plain
one_of --stage "$stage" all infer score
[[ ! -e $model ]] || model=$(realpath "$model")
vlmevalkit=$(realpath -m "$vlmevalkit") output=$(realpath -m "$output")
cd "$repository"
mapfile -t known < <("$python" -c '
from examples.tiny_r1v.eval.benchmarks import BENCHMARKS
print(*(each.dataset for each in BENCHMARKS), sep="\n")')
((${#known[@]} == 10)) || die "the list of benchmarks can't be read; is this package installed for $python?"
((${#data[@]})) || data=("${known[@]}")
for dataset in "${data[@]}"; do
    one_of --data "$dataset" "${known[@]}"
done
$dry_run || [[ -f $vlmevalkit/run.py ]] || die "--vlmevalkit $vlmevalkit: there is no run.py"

# [framework] pixels as VLMEvalKit sets them for Qwen2.5-VL: 1280 to 16384 image tokens.
serve=(vllm serve "$model" --served-model-name "$name" --host 127.0.0.1 --port "$port"
    --data-parallel-size "$gpus" --max-model-len 32768
    --mm-processor-kwargs '{"min_pixels": 1003520, "max_pixels": 12845056}')
[[ $prompt == plain ]] || serve+=(--chat-template "$repository/examples/tiny_r1v/eval/think_boxed.jinja")
kit=(env -C "$vlmevalkit" PRED_FORMAT=tsv "${VLMEVALKIT_PYTHON:-python}" run.py --data "${data[@]}"
    --model "$name" --work-dir "$output" --reuse)
infer=("${kit[@]}" --mode infer --base-url "http://127.0.0.1:$port/v1" --temperature 0
    --max-tokens "$max_tokens" --api-nproc $((64 * gpus)))
count=("$python" -m examples.tiny_r1v.eval.predictions "$output/$name" --tokenizer "$model")
score=("${kit[@]}" --mode eval "$@")

if $dry_run; then
    [[ $stage == score ]] || show "${serve[@]}"
    [[ $stage == score ]] || show "${infer[@]}"
    show "${count[@]}"
    [[ $stage == infer ]] || show "${score[@]}"
    exit
fi

server=''
stop_server() {
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    [[ -z $server ]] || wait "$server" || true
    server=''
}
trap stop_server EXIT
trap 'exit 130' INT TERM

if [[ $stage != score ]]; then
    mkdir -p "$output"
    log=$output/$name-server.log
    echo "Starting vLLM; its log is $log"
    "${serve[@]}" >"$log" 2>&1 &
    server=$!
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
        kill -0 "$server" 2>/dev/null || { tail -n 20 "$log" >&2 && die "vLLM ended; its log: $log"; }
        sleep 2
    done
    run "${infer[@]}"
    stop_server
fi
"${count[@]}"
[[ $stage == infer ]] || run "${score[@]}"
