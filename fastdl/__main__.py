"""``python -m fastdl doctor`` and ``python -m fastdl verify``."""

import argparse
import importlib
import sys

from fastdl.doctor import doctor


def main() -> int:
    """Run one of the commands; returns what the process exits with."""
    parser = argparse.ArgumentParser(prog="python -m fastdl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what this process runs on, and advice")
    verify = commands.add_parser("verify", help="every layer of a model against float64")
    verify.add_argument(
        "maker", help="module:function that returns (model, batch); the model is patched here"
    )
    arguments = parser.parse_args()
    if arguments.command == "doctor":
        print(doctor())
        return 0
    return _verify(arguments.maker)


def _verify(maker: str) -> int:
    import fastdl.torch

    sys.path.insert(0, "")
    module, _, function = maker.partition(":")
    model, batch = getattr(importlib.import_module(module), function or "make")()
    fastdl.torch.patch(model)
    report = fastdl.torch.verify(model, *(batch if isinstance(batch, tuple) else (batch,)))
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
