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
    relu6_backward,
    relu6_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    silu_backward,
    silu_forward,
    tanh_backward,
    tanh_forward,
)
from fastdl.reference.adam import adam_step
from fastdl.reference.adaptive_avg_pool2d import (
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool2d_forward,
)
from fastdl.reference.adaptive_max_pool2d import (
    adaptive_max_pool2d_backward,
    adaptive_max_pool2d_forward,
)
from fastdl.reference.avg_pool2d import avg_pool2d_backward, avg_pool2d_forward
from fastdl.reference.batch_norm import batch_norm_backward, batch_norm_forward
from fastdl.reference.conv2d import conv2d_backward, conv2d_forward
from fastdl.reference.cross_entropy import cross_entropy_backward, cross_entropy_forward
from fastdl.reference.dropout import dropout_backward, dropout_forward
from fastdl.reference.layer_norm import layer_norm_backward, layer_norm_forward
from fastdl.reference.linear import linear_backward, linear_forward
from fastdl.reference.log_softmax import log_softmax_backward, log_softmax_forward
from fastdl.reference.matmul import matmul_backward, matmul_forward
from fastdl.reference.max_pool2d import max_pool2d_backward, max_pool2d_forward
from fastdl.reference.nll_loss import nll_loss_backward, nll_loss_forward
from fastdl.reference.scaled_dot_product_attention import (
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)
from fastdl.reference.sgd import sgd_step
from fastdl.reference.softmax import softmax_backward, softmax_forward

__all__ = [
    "adam_step",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool2d_forward",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "elu_backward",
    "elu_forward",
    "gelu_backward",
    "gelu_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "linear_backward",
    "linear_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "matmul_backward",
    "matmul_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "nll_loss_backward",
    "nll_loss_forward",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "scaled_dot_product_attention_backward",
    "scaled_dot_product_attention_forward",
    "sgd_step",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "tanh_backward",
    "tanh_forward",
]
