#!/usr/bin/env bash
# Build the release as it would be published, and use its wheel outside the clone; minutes, most of them for fetching torch.
#   bash scripts/release_check.bash
# Of the clone, only what git tracks is built. All is done in a temporary folder, which is removed.
source "$(dirname "$0")/common.bash"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
EXTRAS=export,ray,torchcodec,report,test

# source/: what is built, free of what earlier builds have left in the clone
mkdir "$WORK/source"
git ls-files -z --cached | tar --create --null --files-from - | tar --extract --directory "$WORK/source"

# dist/: the sdist, and the wheel made from it
"${PYTHON:-python3}" -m venv "$WORK/tools"
"$WORK/tools/bin/pip" install --quiet --disable-pip-version-check build
"$WORK/tools/bin/python" -m build --outdir "$WORK/dist" "$WORK/source" > "$WORK/build.log" 2>&1 || { cat "$WORK/build.log" >&2; exit 1; }
WHEEL=$(echo "$WORK"/dist/*.whl)
echo "built: $(cd "$WORK/dist" && echo *)"

# Every extra resolves with the pinned versions, by another resolver too.
if "$WORK/tools/bin/pip" install --quiet --disable-pip-version-check uv; then
    "$WORK/tools/bin/uv" pip install --quiet --dry-run --python "$WORK/tools/bin/python" "$WHEEL[$EXTRAS]" -c constraints.txt
    echo "uv: resolves xvoken[$EXTRAS]"
else
    echo "uv: not to be had here, left out"
fi

# empty/: the wheel and what it needs, nothing of the clone
"${PYTHON:-python3}" -m venv "$WORK/empty"
"$WORK/empty/bin/pip" install --quiet --disable-pip-version-check "$WHEEL" -c constraints.txt
cp tests/installed_wheel.py "$WORK/"
(cd xvoken && git ls-files --cached) > "$WORK/modules.txt"
cd "$WORK"
env -u PYTHONPATH HF_HUB_OFFLINE=1 empty/bin/python -I installed_wheel.py modules.txt
