"""Writes fastdl/_core.pyi from the compiled module; --check only tells whether it is current."""

import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path("fastdl/_core.pyi")


def tool(name: str, *arguments: str) -> None:
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}")


def generate() -> str:
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / STUB
        tool("pybind11_stubgen", "fastdl._core", "--exit-code", "--output-dir", folder)
        for command in (("check", "--fix", "--select=I"), ("format",)):
            tool("ruff", *command, "--config=pyproject.toml", str(stub))
        return stub.read_text()


if __name__ == "__main__":
    text = generate()
    if sys.argv[1:] != ["--check"]:
        STUB.write_text(text)
    elif not STUB.exists() or STUB.read_text() != text:
        sys.exit(f"{STUB} is out of date: run make stubs")
