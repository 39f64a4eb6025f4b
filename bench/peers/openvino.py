"""OpenVINO: the forward pass in float32, the model compiled for latency."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino

from bench.functional import Case, Functional
from bench.harness import Call
from bench.peers.onnx_graph import model_of

_core = openvino.Core()
_config = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bfloat16 where the CPU can
    "ENABLE_CPU_PINNING": False,  # would pin the caller's thread, which all contenders share
}


def start(threads: int) -> None:
    _config["INFERENCE_NUM_THREADS"] = threads


def make(
    provider: str, functional: Functional, case: Case, direction: str, dtype: np.dtype
) -> Call | None:
    made = model_of(functional, case, direction, dtype)
    if made is None:
        return None
    model, fed = made
    return call_of(_core.read_model(model), fed)


def call_of(model: openvino.Model, fed: Mapping[str, np.ndarray]) -> Call:
    """A run of a model with one output, its inputs given by name."""
    request = _core.compile_model(model, "CPU", _config).create_infer_request()
    for name, array in fed.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def run() -> Sequence[Any]:
        request.infer(share_outputs=True)  # in memory of its own, which it uses again
        return [request.get_output_tensor()]

    return Call(run, lambda result: result.data, keep=fed)
