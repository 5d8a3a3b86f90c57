#!/usr/bin/env bash
# The versions that pyproject.toml promises: the lowest of each dependency, in an environment of its own, and every Python here.
# Usage: .ci/lowest.sh [PYTHON]; PYTHON has to be one that the lowest versions have wheels for.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
unset PYTHONPATH # what is installed is what runs
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export UV_CACHE_DIR=${UV_CACHE_DIR:-$scratch/cache} UV_PYTHON_DOWNLOADS=never OMP_NUM_THREADS=1
for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do # pyenv's shims run only the version that is in use
    if [ -d "$folder" ]; then PATH=$PATH:$folder; fi
done

section() { printf '\n-- %s (%s s)\n' "$1" "$SECONDS"; }
interpreter() { uv python find --no-project "$1" 2>/dev/null; } # of a version, its path

section "syntax, with every Python at hand"
for version in 3.10 3.11 3.12 3.13 3.14; do
    if python=$(interpreter "$version"); then
        "$python" .ci/syntax.py
    else
        echo "Python $version is not here: not checked"
    fi
done

section "the lowest versions"
# With setuptools, as python -m venv has it: the compiler in torch 2.6 imports it, and torch 2.6 does not ask for it.
python=$(interpreter "${1:-3.10}" || interpreter 3.11) || { echo "Python ${1:-3.10} is not here."; exit 1; }
uv venv --quiet --seed --python "$python" "$scratch/lowest"
uv pip install --quiet --python "$scratch/lowest/bin/python" --resolution lowest-direct ".[export,plot]"
cp .ci/smoke.py "$scratch"
cd "$scratch" # away from the checkout, for the same reason
"$scratch/lowest/bin/python" smoke.py "$checkout"
section "done"
