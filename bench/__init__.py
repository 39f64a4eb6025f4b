import importlib
import pkgutil

from bench.harness import Bench


def benches() -> list[Bench]:
    """All of them, from the files bench_<op>.py."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("bench_"))
    return [b for name in names for b in importlib.import_module(f"bench.{name}").BENCHES]
