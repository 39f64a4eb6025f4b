"""NumPy references of every op: the oracle of the tests, the bench and ``verify``.

Each file states an op by its formula, computes in float64 and returns float64 for any dtype.
What an op means is what ``torch.nn.functional`` of PyTorch 2.13 means by it.
"""

from fastdl.reference.activations import (
    elu_backward,
    elu_forward,
    gelu_backward,
    gelu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    silu_backward,
    silu_forward,
    tanh_backward,
    tanh_forward,
)
from fastdl.reference.log_softmax import log_softmax_backward, log_softmax_forward
from fastdl.reference.softmax import softmax_backward, softmax_forward

__all__ = [
    "elu_backward",
    "elu_forward",
    "gelu_backward",
    "gelu_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "tanh_backward",
    "tanh_forward",
]
