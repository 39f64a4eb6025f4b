from __future__ import annotations

import collections.abc
import typing

import numpy

__all__: list[str] = [
    "adam_step",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool2d_forward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool2d_backward_codes",
    "adaptive_max_pool2d_forward",
    "adaptive_max_pool2d_saved",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "buffer_pool_size",
    "build_config",
    "conv2d_backward",
    "conv2d_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "elu_backward",
    "elu_forward",
    "emulate_cuda",
    "follow_tf32",
    "gelu_backward",
    "gelu_forward",
    "get_buffer_pool_limit",
    "get_isa",
    "get_num_threads",
    "get_precision",
    "get_rng_state",
    "last_trace",
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
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_backward_codes",
    "max_pool2d_forward",
    "max_pool2d_saved",
    "measure_peaks",
    "nll_loss_backward",
    "nll_loss_forward",
    "pack_conv2d_weight",
    "pack_linear_weight",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "scaled_dot_product_attention_backward",
    "scaled_dot_product_attention_forward",
    "set_buffer_pool_limit",
    "set_isa",
    "set_num_threads",
    "set_precision",
    "set_rng_state",
    "sgd_step",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_forward",
    "supported_isas",
    "tanh_backward",
    "tanh_forward",
]

def adam_step(
    params: typing.Any,
    grads: typing.Any,
    exp_avgs: typing.Any,
    exp_avg_sqs: typing.Any,
    max_exp_avg_sqs: typing.Any,
    step: typing.SupportsInt
    | typing.SupportsIndex
    | collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    lr: typing.SupportsFloat | typing.SupportsIndex,
    beta1: typing.SupportsFloat | typing.SupportsIndex,
    beta2: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    weight_decay: typing.SupportsFloat | typing.SupportsIndex,
    decoupled: bool,
    maximize: bool,
    master_params: typing.Any = None,
    counts: typing.Any = None,
    device_lr: typing.Any = None,
    found_inf: typing.Any = None,
    grad_scale: typing.Any = None,
) -> None: ...
def adaptive_avg_pool2d_backward(
    dy: typing.Any, input_size: typing.Any, channels_last: bool = False
) -> numpy.ndarray: ...
def adaptive_avg_pool2d_forward(
    x: typing.Any, output_size: typing.Any, out: typing.Any = None
) -> numpy.ndarray: ...
def adaptive_max_pool2d(x: typing.Any, output_size: typing.Any) -> numpy.ndarray: ...
def adaptive_max_pool2d_backward(
    dy: typing.Any, indices: typing.Any, input_size: typing.Any, channels_last: bool = False
) -> numpy.ndarray: ...
def adaptive_max_pool2d_backward_codes(
    dy: typing.Any, codes: typing.Any, input_size: typing.Any, channels_last: bool = False
) -> numpy.ndarray: ...
def adaptive_max_pool2d_forward(
    x: typing.Any, output_size: typing.Any
) -> tuple[numpy.ndarray, numpy.ndarray]: ...
def adaptive_max_pool2d_saved(
    x: typing.Any, output_size: typing.Any
) -> tuple[numpy.ndarray, numpy.ndarray]: ...
def avg_pool2d_backward(
    dy: typing.Any,
    input_size: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: typing.Any,
    channels_last: bool = False,
) -> numpy.ndarray: ...
def avg_pool2d_forward(
    x: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: typing.Any,
    out: typing.Any = None,
) -> numpy.ndarray: ...
def batch_norm_backward(
    dy: typing.Any,
    x: typing.Any,
    weight: typing.Any,
    mean: typing.Any,
    rstd: typing.Any,
    training: bool,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
) -> tuple: ...
def batch_norm_forward(
    x: typing.Any,
    running_mean: typing.Any,
    running_var: typing.Any,
    weight: typing.Any,
    bias: typing.Any,
    training: bool,
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    out: typing.Any = None,
) -> tuple: ...
def buffer_pool_size() -> int: ...
def build_config() -> dict: ...
def conv2d_backward(
    dy: typing.Any,
    x: typing.Any,
    weight: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    groups: typing.Any,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
) -> tuple: ...
def conv2d_forward(
    x: typing.Any,
    weight: typing.Any,
    bias: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    groups: typing.Any,
    activation: str | None = None,
    residual: typing.Any = None,
    out: typing.Any = None,
    packed: typing.Any = None,
) -> numpy.ndarray: ...
def cross_entropy_backward(
    dy: typing.Any,
    x: typing.Any,
    target: typing.Any,
    weight: typing.Any,
    ignore_index: typing.SupportsInt | typing.SupportsIndex,
    reduction: str,
    label_smoothing: typing.SupportsFloat | typing.SupportsIndex,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(2)"],
) -> tuple: ...
def cross_entropy_forward(
    x: typing.Any,
    target: typing.Any,
    weight: typing.Any,
    ignore_index: typing.SupportsInt | typing.SupportsIndex,
    reduction: str,
    label_smoothing: typing.SupportsFloat | typing.SupportsIndex,
) -> numpy.ndarray: ...
def dropout_backward(
    dy: typing.Any, p: typing.SupportsFloat | typing.SupportsIndex, rng_state: typing.Any
) -> numpy.ndarray: ...
def dropout_forward(
    x: typing.Any,
    p: typing.SupportsFloat | typing.SupportsIndex,
    training: bool = True,
    inplace: bool = False,
    out: typing.Any = None,
) -> tuple: ...
def elu_backward(
    dy: typing.Any, x: typing.Any, alpha: typing.SupportsFloat | typing.SupportsIndex
) -> numpy.ndarray: ...
def elu_forward(
    x: typing.Any,
    alpha: typing.SupportsFloat | typing.SupportsIndex,
    inplace: bool = False,
    out: typing.Any = None,
) -> numpy.ndarray: ...
def emulate_cuda(on: bool) -> None: ...
def follow_tf32(array_type: type, allows: collections.abc.Callable) -> None: ...
def gelu_backward(dy: typing.Any, x: typing.Any, approximate: str) -> numpy.ndarray: ...
def gelu_forward(
    x: typing.Any, approximate: str, inplace: bool = False, out: typing.Any = None
) -> numpy.ndarray: ...
def get_buffer_pool_limit() -> int: ...
def get_isa() -> str: ...
def get_num_threads() -> int: ...
def get_precision() -> str: ...
def get_rng_state() -> tuple[int, int]: ...
def last_trace() -> dict: ...
def layer_norm_backward(
    dy: typing.Any,
    x: typing.Any,
    normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    mean: typing.Any,
    rstd: typing.Any,
    weight: typing.Any,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
) -> tuple: ...
def layer_norm_forward(
    x: typing.Any,
    normalized_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    weight: typing.Any,
    bias: typing.Any,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    out: typing.Any = None,
) -> tuple: ...
def leaky_relu_backward(
    dy: typing.Any, x: typing.Any, negative_slope: typing.SupportsFloat | typing.SupportsIndex
) -> numpy.ndarray: ...
def leaky_relu_forward(
    x: typing.Any,
    negative_slope: typing.SupportsFloat | typing.SupportsIndex,
    inplace: bool = False,
    out: typing.Any = None,
) -> numpy.ndarray: ...
def linear_backward(
    dy: typing.Any,
    x: typing.Any,
    weight: typing.Any,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
) -> tuple: ...
def linear_forward(
    x: typing.Any,
    weight: typing.Any,
    bias: typing.Any,
    activation: str | None = None,
    residual: typing.Any = None,
    out: typing.Any = None,
    packed: typing.Any = None,
) -> numpy.ndarray: ...
def log_softmax_backward(
    dy: typing.Any, y: typing.Any, dim: typing.SupportsInt | typing.SupportsIndex
) -> numpy.ndarray: ...
def log_softmax_forward(
    x: typing.Any, dim: typing.SupportsInt | typing.SupportsIndex, out: typing.Any = None
) -> numpy.ndarray: ...
def matmul_backward(
    dy: typing.Any,
    x: typing.Any,
    other: typing.Any,
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(2)"],
) -> tuple: ...
def matmul_forward(
    x: typing.Any, other: typing.Any, out: typing.Any = None, bias: typing.Any = None
) -> numpy.ndarray: ...
def max_pool2d(
    x: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    ceil_mode: bool,
    out: typing.Any = None,
) -> numpy.ndarray: ...
def max_pool2d_backward(
    dy: typing.Any, indices: typing.Any, input_size: typing.Any, channels_last: bool = False
) -> numpy.ndarray: ...
def max_pool2d_backward_codes(
    dy: typing.Any,
    codes: typing.Any,
    input_size: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    ceil_mode: bool,
    channels_last: bool = False,
) -> numpy.ndarray: ...
def max_pool2d_forward(
    x: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    ceil_mode: bool,
    out: typing.Any = None,
) -> tuple[numpy.ndarray, numpy.ndarray]: ...
def max_pool2d_saved(
    x: typing.Any,
    kernel_size: typing.Any,
    stride: typing.Any,
    padding: typing.Any,
    dilation: typing.Any,
    ceil_mode: bool,
) -> tuple[numpy.ndarray, numpy.ndarray]: ...
def measure_peaks(dtype: str) -> tuple[float, float]: ...
def nll_loss_backward(
    dy: typing.Any,
    x: typing.Any,
    target: typing.Any,
    weight: typing.Any,
    ignore_index: typing.SupportsInt | typing.SupportsIndex,
    reduction: str,
) -> numpy.ndarray: ...
def nll_loss_forward(
    x: typing.Any,
    target: typing.Any,
    weight: typing.Any,
    ignore_index: typing.SupportsInt | typing.SupportsIndex,
    reduction: str,
) -> numpy.ndarray: ...
def pack_conv2d_weight(weight: typing.Any, groups: typing.Any) -> numpy.ndarray: ...
def pack_linear_weight(weight: typing.Any) -> numpy.ndarray: ...
def relu6_backward(dy: typing.Any, x: typing.Any) -> numpy.ndarray: ...
def relu6_forward(
    x: typing.Any, inplace: bool = False, out: typing.Any = None
) -> numpy.ndarray: ...
def relu_backward(dy: typing.Any, x: typing.Any) -> numpy.ndarray: ...
def relu_forward(x: typing.Any, inplace: bool = False, out: typing.Any = None) -> numpy.ndarray: ...
def scaled_dot_product_attention_backward(
    dy: typing.Any,
    query: typing.Any,
    key: typing.Any,
    value: typing.Any,
    y: typing.Any,
    logsumexp: typing.Any,
    attn_mask: typing.Any = None,
    dropout_p: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    is_causal: bool = False,
    scale: typing.SupportsFloat | typing.SupportsIndex | None = None,
    enable_gqa: bool = False,
    rng_state: typing.Any = (0, 0),
    output_mask: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(4)"] = [
        True,
        True,
        True,
        True,
    ],
) -> tuple: ...
def scaled_dot_product_attention_forward(
    query: typing.Any,
    key: typing.Any,
    value: typing.Any,
    attn_mask: typing.Any = None,
    dropout_p: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    is_causal: bool = False,
    scale: typing.SupportsFloat | typing.SupportsIndex | None = None,
    enable_gqa: bool = False,
    out: typing.Any = None,
    rng_state: typing.Any = None,
) -> tuple: ...
def set_buffer_pool_limit(bytes: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def set_isa(name: str) -> None: ...
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def set_precision(name: str) -> None: ...
def set_rng_state(
    seed: typing.SupportsInt | typing.SupportsIndex,
    offset: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def sgd_step(
    params: typing.Any,
    grads: typing.Any,
    momentum_buffers: typing.Any,
    step: typing.SupportsInt
    | typing.SupportsIndex
    | collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    lr: typing.SupportsFloat | typing.SupportsIndex,
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    dampening: typing.SupportsFloat | typing.SupportsIndex,
    weight_decay: typing.SupportsFloat | typing.SupportsIndex,
    nesterov: bool,
    maximize: bool,
    master_params: typing.Any = None,
    device_lr: typing.Any = None,
    found_inf: typing.Any = None,
    grad_scale: typing.Any = None,
) -> None: ...
def sigmoid_backward(dy: typing.Any, y: typing.Any) -> numpy.ndarray: ...
def sigmoid_forward(
    x: typing.Any, inplace: bool = False, out: typing.Any = None
) -> numpy.ndarray: ...
def silu_backward(dy: typing.Any, x: typing.Any) -> numpy.ndarray: ...
def silu_forward(x: typing.Any, inplace: bool = False, out: typing.Any = None) -> numpy.ndarray: ...
def softmax_backward(
    dy: typing.Any, y: typing.Any, dim: typing.SupportsInt | typing.SupportsIndex
) -> numpy.ndarray: ...
def softmax_forward(
    x: typing.Any, dim: typing.SupportsInt | typing.SupportsIndex, out: typing.Any = None
) -> numpy.ndarray: ...
def supported_isas() -> list[str]: ...
def tanh_backward(dy: typing.Any, y: typing.Any) -> numpy.ndarray: ...
def tanh_forward(x: typing.Any, inplace: bool = False, out: typing.Any = None) -> numpy.ndarray: ...
