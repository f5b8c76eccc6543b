#!/usr/bin/env bash
# Build sdist and wheel as for a release, then install and use the wheel outside the clone. Takes minutes, most of them to fetch torch.
#   bash scripts/release_check.bash
# Only files that git tracks are built. All is done in a temporary folder, which is removed at the end.
source "$(dirname "$0")/common.bash"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
EXTRAS=export,ray,torchcodec,report,serve,terminal,test

# source/: the tracked files, without leftovers of earlier builds
mkdir "$WORK/source"
git ls-files -z --cached | tar --create --null --files-from - | tar --extract --directory "$WORK/source"

# dist/: the sdist, and the wheel made from it
"${PYTHON:-python3}" -m venv "$WORK/tools"
"$WORK/tools/bin/pip" install --quiet --disable-pip-version-check build
"$WORK/tools/bin/python" -m build --outdir "$WORK/dist" "$WORK/source" > "$WORK/build.log" 2>&1 || { cat "$WORK/build.log" >&2; exit 1; }
WHEEL=$(echo "$WORK"/dist/*.whl)
echo "built: $(cd "$WORK/dist" && echo *)"

# Check with a second resolver, uv, that every extra fits the pinned versions.
if "$WORK/tools/bin/pip" install --quiet --disable-pip-version-check uv; then
    # As pip does, uv is to trust the system's certificates; the name of the variable has changed.
    UV_NATIVE_TLS=1 UV_SYSTEM_CERTS=1 "$WORK/tools/bin/uv" pip install --quiet --dry-run --python "$WORK/tools/bin/python" "$WHEEL[$EXTRAS]" -c constraints.txt
    echo "uv: resolves xvoken[$EXTRAS]"
else
    echo "uv: can't be installed here, its check is skipped"
fi

# empty/: an environment with the wheel and its dependencies only; the clone is not on its path
"${PYTHON:-python3}" -m venv "$WORK/empty"
"$WORK/empty/bin/pip" install --quiet --disable-pip-version-check "$WHEEL" -c constraints.txt
cp tests/installed_wheel.py "$WORK/"
(cd xvoken && git ls-files --cached) > "$WORK/modules.txt"
cd "$WORK"
env -u PYTHONPATH HF_HUB_OFFLINE=1 empty/bin/python -I installed_wheel.py modules.txt
