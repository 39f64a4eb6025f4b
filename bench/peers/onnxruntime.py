"""ONNX Runtime: the forward pass in float32, inputs and outputs bound without copies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from bench.functional import Case, Functional
from bench.harness import Call
from bench.peers.onnx_graph import RESULT, model_of

_options = onnxruntime.SessionOptions()
_options.log_severity_level = 3  # errors
# Its threads spin during a run, as always, but not on into the turn of the next contender.
_options.add_session_config_entry("session.force_spinning_stop", "1")


def start(threads: int) -> None:
    _options.intra_op_num_threads = threads


def make(
    provider: str, functional: Functional, case: Case, direction: str, dtype: np.dtype
) -> Call | None:
    made = model_of(functional, case, direction, dtype)
    return made and call_of(*made)


def call_of(model: bytes, fed: Mapping[str, np.ndarray]) -> Call:
    """A run of an ONNX model, whose output is named RESULT."""
    session = onnxruntime.InferenceSession(model, _options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in fed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output(RESULT)  # in memory of its own, which it uses again

    def run() -> Sequence[Any]:
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    return Call(run, lambda result: result.numpy(), keep=fed)
