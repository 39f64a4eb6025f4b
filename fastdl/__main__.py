"""``python -m fastdl doctor``, ``verify`` and ``replay``."""

import argparse
import importlib
import sys

from fastdl import shadow
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
    replay = commands.add_parser("replay", help="a call that FASTDL_SHADOW found wrong, once more")
    replay.add_argument("file", help="the .npz its message names")
    arguments = parser.parse_args()
    if arguments.command == "doctor":
        print(doctor())
        return 0
    if arguments.command == "replay":
        return _replay(arguments.file, parser)
    return _verify(arguments.maker, parser)


def _replay(file: str, parser: argparse.ArgumentParser) -> int:
    try:
        fault = shadow.replay(file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(fault or "as it should be")
    return 1 if fault else 0


def _verify(maker: str, parser: argparse.ArgumentParser) -> int:
    import fastdl.torch

    sys.path.insert(0, "")
    module, _, function = maker.partition(":")
    try:
        make = getattr(importlib.import_module(module), function or "make")
    except (ImportError, AttributeError) as error:
        parser.error(f"{maker}: {error}")
    model, batch = make()
    patched = fastdl.torch.patch(model)
    report = fastdl.torch.verify(model, *(batch if isinstance(batch, tuple) else (batch,)))
    if not report.layers:
        parser.error(f"{maker}: nothing to verify\n{patched}")
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
