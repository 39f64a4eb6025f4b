"""fastdl: the core operations of deep learning on NumPy arrays, fast, forward and backward.

Float arrays are float16, bfloat16 (that of ``ml_dtypes``), float32 or float64. What is 16-bit is
computed in float32 and rounded once.

>>> import numpy as np, fastdl
>>> fastdl.softmax(np.zeros(2), dim=0)
array([0.5, 0.5])
"""

__version__ = "0.1.0"

from os import environ as _environ

from fastdl import optim
from fastdl.activations import (
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu6,
    relu6_backward,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from fastdl.adam import adam_step
from fastdl.adaptive_avg_pool2d import adaptive_avg_pool2d, adaptive_avg_pool2d_backward
from fastdl.adaptive_max_pool2d import adaptive_max_pool2d, adaptive_max_pool2d_backward
from fastdl.avg_pool2d import avg_pool2d, avg_pool2d_backward
from fastdl.batch_norm import batch_norm, batch_norm_backward, batch_norm_forward
from fastdl.config import (
    get_buffer_pool_limit,
    get_isa,
    get_num_threads,
    get_precision,
    get_rng_state,
    manual_seed,
    set_buffer_pool_limit,
    set_isa,
    set_num_threads,
    set_precision,
    set_rng_state,
    show_config,
    supported_isas,
)
from fastdl.conv2d import PackedConv2dWeight, conv2d, conv2d_backward, pack_conv2d_weight
from fastdl.cross_entropy import cross_entropy, cross_entropy_backward
from fastdl.differentiate import differentiable_ops, vjp
from fastdl.dropout import dropout, dropout_backward, dropout_forward
from fastdl.explain import Explanation, explain
from fastdl.layer_norm import layer_norm, layer_norm_backward, layer_norm_forward
from fastdl.linear import PackedLinearWeight, linear, linear_backward, pack_linear_weight
from fastdl.matmul import matmul, matmul_backward
from fastdl.max_pool2d import max_pool2d, max_pool2d_backward
from fastdl.nll_loss import nll_loss, nll_loss_backward
from fastdl.scaled_dot_product_attention import (
    scaled_dot_product_attention,
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)
from fastdl.sgd import sgd_step
from fastdl.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward

if _environ.get("FASTDL_SHADOW"):
    from fastdl import shadow

    shadow.install(_environ["FASTDL_SHADOW"])

__all__ = [
    "Explanation",
    "PackedConv2dWeight",
    "PackedLinearWeight",
    "adam_step",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "conv2d",
    "conv2d_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "differentiable_ops",
    "dropout",
    "dropout_backward",
    "dropout_forward",
    "elu",
    "elu_backward",
    "explain",
    "gelu",
    "gelu_backward",
    "get_buffer_pool_limit",
    "get_isa",
    "get_num_threads",
    "get_precision",
    "get_rng_state",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "manual_seed",
    "matmul",
    "matmul_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "nll_loss",
    "nll_loss_backward",
    "optim",
    "pack_conv2d_weight",
    "pack_linear_weight",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "scaled_dot_product_attention_forward",
    "set_buffer_pool_limit",
    "set_isa",
    "set_num_threads",
    "set_precision",
    "set_rng_state",
    "sgd_step",
    "show_config",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "supported_isas",
    "tanh",
    "tanh_backward",
    "vjp",
]
