# shellcheck shell=bash disable=SC2034
# What the launchers share. To be sourced.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

FRAMEWORKS=(verl easyr1)
ALGORITHMS=(lipo grpo dapo)
EXPERTS=(math structure ocr mixture)
PROFILES=(3b quickstart)

die() {
    echo "$*" >&2
    exit 2
}

# PYTHON, or the active environment's: python, which some systems call python3.
python=${PYTHON:-}
for candidate in python python3; do
    [[ -z $python ]] || break
    ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        python=$(command -v "$candidate")
done
[[ -n $python || -n ${CONTAINER:-} ]] || # slurm.sh leaves it to the container
    die "There is no Python 3.10 or newer on the PATH; PYTHON=/path/to/python names one"
ray=("$python" -m ray.scripts.scripts) # the same environment's, whatever `ray` the PATH has

# one_of OPTION VALUE ALLOWED...: ends the script unless VALUE is allowed.
one_of() {
    local option=$1 value=$2 allowed
    shift 2
    for allowed in "$@"; do
        [[ $value != "$allowed" ]] || return 0
    done
    die "$("$python" -c '
import difflib, sys
option, value, *allowed = sys.argv[1:]
close = difflib.get_close_matches(value, allowed, 1, 0.5)
hint = f" Did you mean {close[0]}?" if close else ""
print(f"{option} {value!r}: there is none.{hint} One of: " + ", ".join(allowed))
' "$option" "$value" "$@")"
}

# unknown_option GIVEN KNOWN...
unknown_option() {
    one_of "option" "$@"
}

# value_of OPTION NUMBER_OF_ARGUMENTS_LEFT: ends the script where an option has no value.
value_of() {
    (($2 > 1)) || die "$1 needs a value; --help shows all options"
}

# run COMMAND...: runs it, hands SIGINT and SIGTERM on to it as SIGTERM, and returns its exit code
# when it has ended.
run() {
    local status=0
    "$@" &
    local child=$!
    # bash starts background commands deaf to SIGINT, so both become SIGTERM.
    trap 'kill -TERM "$child" 2>/dev/null || true' INT TERM
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
        status=0
        wait "$child" || status=$?
    done
    trap - INT TERM
    return "$status"
}

# quoted TEXT: as a value of Hydra's that stands for these characters.
quoted() {
    printf "'%s'" "$(sed -E "s/(\\\\*)'/\\1\\1\\\\'/g; s/\\\\+\$/&&/" <<<"$1")"
}

# show COMMAND...: prints it so that a shell reads it back.
show() {
    local word line=
    for word in "$@"; do
        line+=$(printf '%q ' "$word")
    done
    printf '%s\n' "${line% }"
}
