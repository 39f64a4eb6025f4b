"""Builds the ONNX model of one op, for onnxruntime and openvino."""

from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench.functional import FORWARD, Case, Functional

OPSET = 23
IR_VERSION = 11
RESULT = "result"
# Parameters of a trained network: a runtime may rearrange them once, when it loads the model.
CONSTANTS = ("weight", "bias", "running_mean", "running_var")


class Graph:
    """Nodes added one by one; every array goes by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = count()

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its result."""
        name = f"t{next(self._numbers)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        name = name or f"t{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def model_of(
    functional: Functional, case: Case, direction: str, dtype: np.dtype
) -> tuple[bytes, dict[str, np.ndarray]] | None:
    """The model, and the arrays to feed it with; None if it has none for the case.

    The peers that run ONNX models are timed forward only, in float32.
    """
    if functional.onnx is None or direction != FORWARD or dtype != np.float32:
        return None
    arrays = case.inputs(dtype)
    graph = Graph()
    result = functional.onnx(graph, *arrays, **case.options)
    if result is None:
        return None
    fed = {name: value for name, value in arrays.items() if name not in CONSTANTS}
    for name in CONSTANTS:
        if name in arrays:
            graph.constant(arrays[name], name)
    graph.nodes.append(helper.make_node("Identity", [result], [RESULT]))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in fed.items()
    ]
    element = helper.np_dtype_to_tensor_dtype(dtype)
    outputs = [helper.make_tensor_value_info(RESULT, element, None)]
    body = helper.make_graph(graph.nodes, functional.op, inputs, outputs, graph.constants)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return model.SerializeToString(), fed
