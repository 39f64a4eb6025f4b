"""Functions with the names and signatures of ``torch.nn.functional``, by fastdl's kernels."""

from fastdl.torch.activations import elu, gelu, leaky_relu, relu, relu6, sigmoid, silu, tanh
from fastdl.torch.adaptive_avg_pool2d import adaptive_avg_pool2d
from fastdl.torch.adaptive_max_pool2d import adaptive_max_pool2d
from fastdl.torch.addmm import addmm
from fastdl.torch.avg_pool2d import avg_pool2d
from fastdl.torch.batch_norm import batch_norm
from fastdl.torch.conv1d import conv1d
from fastdl.torch.conv2d import conv2d
from fastdl.torch.conv_transpose2d import conv_transpose2d
from fastdl.torch.cross_entropy import cross_entropy
from fastdl.torch.dropout import dropout
from fastdl.torch.layer_norm import layer_norm
from fastdl.torch.linear import linear
from fastdl.torch.matmul import matmul
from fastdl.torch.max_pool2d import max_pool2d
from fastdl.torch.nll_loss import nll_loss
from fastdl.torch.scaled_dot_product_attention import scaled_dot_product_attention
from fastdl.torch.softmax import log_softmax, softmax

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "addmm",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "nll_loss",
    "relu",
    "relu6",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
