"""Fails if a kernel object of an ISA above the baseline offers the linker a function for everybody.

python tools/check_isa_symbols.py BUILD_FOLDER

Of a weak symbol that several objects define, the linker keeps one copy. An inline function of a
shared header that is not always inlined has one in the objects of every ISA, and if the copy
compiled for AVX-512 is the one kept, machines without it crash. A symbol whose name mentions
fastdl::<isa> has no twin elsewhere and is safe.
"""

import re
import subprocess
import sys
from pathlib import Path

BASELINE = "scalar"  # compiled with the flags of the rest of _core
HARMLESS = "DW.ref.__gxx_personality_v0"  # a pointer, the same for every ISA


def leaks(isa: str, object_file: Path) -> list[str]:
    """Names of the weak and unique symbols the object defines outside namespace fastdl::<isa>."""
    nm = ["nm", "--demangle", "--defined-only", str(object_file)]
    lines = subprocess.run(nm, capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = (re.match(r"[0-9a-f]* +[WVu] (.*)", line) for line in lines)
    names = [symbol[1] for symbol in symbols if symbol]
    return [name for name in names if f"fastdl::{isa}::" not in name and name != HARMLESS]


def main(build: Path) -> None:
    folders = {
        folder.name.removeprefix("kernels_").removesuffix(".dir"): folder
        for folder in build.glob("CMakeFiles/kernels_*.dir")
    }
    if BASELINE not in folders:
        sys.exit(f"{build} holds no kernels: run make build first")
    found = [
        f"{object_file}: {name}"
        for isa, folder in folders.items()
        if isa != BASELINE
        for object_file in sorted(folder.rglob("*.o"))
        for name in leaks(isa, object_file)
    ]
    if found:
        sys.exit("\n".join(["weak symbols outside the namespace of their ISA:", *found]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
