import importlib
import pkgutil
from importlib.util import find_spec

from bench.harness import Bench


def benches(device: str = "cpu") -> list[Bench]:
    """All of them, from the files bench_<op>.py; those on a GPU from cuda.py."""
    if device == "cuda":
        return importlib.import_module("bench.cuda").BENCHES if find_spec("torch") else []
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("bench_"))
    return [b for name in names for b in importlib.import_module(f"bench.{name}").BENCHES]
