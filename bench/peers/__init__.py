"""The libraries fastdl is compared with, a module each.

A module has ``start(threads)``, called once, and ``make(provider, functional, case, direction,
dtype)``, which returns the Call of a Functional, or None for what the library does not have.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from types import ModuleType

LIBRARIES = {
    "torch": "torch",  # as users run it
    "torch-channels-last": "torch",
    "torch-compile": "torch",  # by inductor; whole networks only
    "torch-foreach": "torch",
    "torch-fused": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "jax": "jax",
    "liger": "liger_kernel",  # on a GPU only
    # fastdl's other ways to run a whole network of PyTorch's
    "fastdl-patch": "torch",
    "fastdl-compile": "torch",
}
NEEDS = {"onnxruntime": ("onnx",), "openvino": ("onnx",)}  # what builds the models they are given

# Libraries that take a result's memory from malloc, which returns large blocks to the system at
# once: they pay for page faults at every call. The second pass tells malloc to keep the blocks.
WITH_PAGE_FAULTS = ("torch", "jax")
NO_FAULTS = "-no-faults"  # suffix of the providers of the second pass


def module_of(provider: str) -> ModuleType:
    return importlib.import_module(f"bench.peers.{LIBRARIES[provider]}")


def missing(provider: str) -> Sequence[str]:
    """The modules a provider needs that are not installed."""
    library = LIBRARIES.get(provider, "numpy")
    return [m for m in (library, *NEEDS.get(library, ())) if not importlib.util.find_spec(m)]


def start(providers: Iterable[str], threads: int) -> None:
    for library in {LIBRARIES[p]: p for p in providers if p in LIBRARIES}.values():
        module_of(library).start(threads)
