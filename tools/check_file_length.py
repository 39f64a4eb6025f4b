"""Fails if a source file is over 500 lines: split it by algorithm, never into `utils2`."""

import sys
from pathlib import Path

LIMIT = 500
FOLDERS = ("bench", "csrc", "cuda", "examples", "fastdl", "tests", "tools")
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".sh"}

lengths = {
    path: len(path.read_text().splitlines())
    for folder in FOLDERS
    for path in Path(folder).rglob("*")
    if path.suffix in SUFFIXES
}
too_long = [f"{path}: {n} lines" for path, n in sorted(lengths.items()) if n > LIMIT]
if too_long:
    sys.exit("\n".join([f"files over {LIMIT} lines:", *too_long]))
