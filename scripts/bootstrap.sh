#!/usr/bin/env bash
# Make a virtual environment with Quatrain in it, or bring one up to date.
#
#     scripts/bootstrap.sh .venv          what `make demo` needs
#     scripts/bootstrap.sh .venv test     that and what the tests need
#
# Versions come from constraints.txt, where torch is pinned: pip prefers a CPU build of that version if it has one at
# hand (a wheel folder or an index of CPU builds), while an open range would take the newest torch and gigabytes of CUDA
# packages with it. On a machine with an NVIDIA GPU a CUDA build is what is wanted, and the right one depends on the
# driver, so there torch (2.11 or newer) and the triton that belongs to it are left to pip.
#
# PYTHON=... names the interpreter (3.11 or newer). pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are obeyed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
extra=${2:-}
python=${PYTHON:-python3}

fail() {
    echo "error: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "there is no '$python'; install Python 3.11 or newer, or name one: PYTHON=/path/to/python make ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Quatrain needs Python 3.11 or newer, and '$python' is $("$python" -V); name another: PYTHON=python3.12 make ..."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' can't make virtual environments; on Debian and Ubuntu: apt install python3-venv"

# An environment that was moved, or whose interpreter is gone, is made anew.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"

constraints=constraints.txt
extras=$extra
if nvidia-smi -L >/dev/null 2>&1; then
    echo "An NVIDIA GPU is here: torch is left to pip, which will fetch a CUDA build (some gigabytes, once)."
    constraints=$venv/constraints-gpu.txt
    grep -vE '^(torch|triton)==' constraints.txt >"$constraints"
    extras=gpu${extra:+,$extra}
fi

echo "Installing Quatrain and its dependencies into $venv ..."
"$venv/bin/python" -m pip install --quiet --constraint "$constraints" --editable ".${extras:+[$extras]}"
