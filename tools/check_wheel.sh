#!/usr/bin/env bash
# Installs a wheel into an empty environment and uses it there, then beside the torch of FOLDER_OF_PYTHON.
# tools/check_wheel.sh FOLDER_OF_PYTHON WHEEL
set -euo pipefail
python=$(realpath -s "$1")/python
wheel=$(realpath "$2")
check=$(realpath "$(dirname "$0")")/check_wheel.py
unset PYTHONPATH

bytes=$(stat -c %s "$wheel")
echo "$(basename "$wheel"): $((bytes / 1000)) kB"
((bytes <= 5000000)) || { echo "over 5 MB" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv empty
empty/bin/pip install --quiet "$wheel"
empty/bin/python "$check" fastdl

if "$python" -c "import torch" 2>/dev/null; then
  "$python" -m pip install --quiet --no-deps --target beside "$wheel"
  PYTHONPATH=beside "$python" "$check" fastdl torch
  PYTHONPATH=beside "$python" "$check" torch fastdl
else
  echo "torch is not installed: not tried beside it"
fi
