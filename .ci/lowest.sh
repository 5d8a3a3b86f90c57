#!/usr/bin/env bash
# The versions that pyproject.toml promises: the lowest of each dependency, in an environment of its own, and every Python here.
# Usage: .ci/lowest.sh [PYTHON]; PYTHON has to be one that the lowest versions have wheels for.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export UV_CACHE_DIR=${UV_CACHE_DIR:-$scratch/cache} OMP_NUM_THREADS=1

section() { printf '\n-- %s (%s s)\n' "$1" "$SECONDS"; }

section "syntax, with every Python at hand"
for version in 3.10 3.11 3.12 3.13 3.14; do
    if python=$(uv python find --no-project "$version" 2>/dev/null) && [ -x "$python" ]; then
        "$python" .ci/syntax.py
    else
        echo "Python $version is not here: not checked"
    fi
done

section "the lowest versions"
# With setuptools, as python -m venv has it: the compiler in torch 2.6 imports it, and torch 2.6 does not ask for it.
uv venv --quiet --seed --python "${1:-3.10}" "$scratch/lowest"
uv pip install --quiet --python "$scratch/lowest/bin/python" --resolution lowest-direct ".[export,plot]"
cp .ci/smoke.py "$scratch"
cd "$scratch" # away from the checkout, so that what was installed is what runs
"$scratch/lowest/bin/python" smoke.py "$checkout"
section "done"
