"""conv2d, forward and backward."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.activations import gelu, gelu_backward, relu_backward
from fastdl.differentiate import VJP, vjp_rule

IntOrPair: TypeAlias = int | Sequence[int]


@takes_tensors
def conv2d(
    x: Array,
    weight: "Array | PackedConv2dWeight",
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: Literal["relu", "gelu", "gelu_tanh"] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Two-dimensional convolution (cross-correlation) of images, and what usually follows it.

    y[n, k, p, q] = activation(bias[k] + residual[n, k, p, q] +
    sum_{c, i, j} weight[k, c, i, j] x[n, c, p s + i d, q s + j d]) with x zero-padded, s the
    stride, d the dilation, and c over the input channels of k's group. Activation and residual are
    applied while the result is in the cache, which saves a pass over it for each; without them the
    semantics of `torch.nn.functional.conv2d
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.conv2d.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C, H, W), or one image (C, H, W).
    weight : (K, C / groups, R, S), of x's dtype, or what :func:`pack_conv2d_weight` made of it.
    bias : (K,) of x's dtype, or None.
    stride : distance between windows, an int or a pair (height, width).
    padding : zeros added on each side, an int or a pair; or "valid" for none, or "same" for as many
        as keep H and W (stride 1 only; an odd one goes to the bottom and the right).
    dilation : distance between the elements under a window, an int or a pair.
    groups : into how many parts the channels are divided; each sees its own part only.
    activation : :func:`fastdl.relu`, or :func:`fastdl.gelu` by the normal distribution function or
        its approximation by tanh; None for the identity.
    residual : array of the result's shape and dtype to be added before the activation.
    out : array of the result's shape and dtype to put it into; must not overlap the others.

    Returns
    -------
    Array (N, K, H', W'), or (K, H', W') for one image, where
    H' = (H + 2 padding - dilation (R - 1) - 1) // stride + 1. A zero of the padding is multiplied
    like any other, so that an infinite weight over the padding makes NaN.

    Raises
    ------
    TypeError : an array is no float array, dtypes differ, or an option is no int or pair.
    ValueError : shapes do not fit, the window is larger than the padded image, an option is out of
        range, "same" with a stride; activation is none of these; out is read-only, overlaps or has
        another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> fastdl.conv2d(x, np.ones((1, 1, 2, 2)), np.array([100.0]))
    array([[[[108., 112.],
             [120., 124.]]]])
    >>> fastdl.conv2d(x, -np.ones((1, 1, 2, 2)), np.array([20.0]), activation="relu")
    array([[[[12.,  8.],
             [ 0.,  0.]]]])
    """
    packed: Array | None = None
    if isinstance(weight, PackedConv2dWeight):
        if groups != weight.groups:
            raise ValueError(f"[conv2d] weight was packed for groups={weight.groups}, not {groups}")
        packed, weight = weight.packed, weight.weight
    return _core.conv2d_forward(
        x, weight, bias, stride, padding, dilation, groups, activation, residual, out, packed
    )


@dataclass(frozen=True, eq=False)
class PackedConv2dWeight:
    """What :func:`pack_conv2d_weight` returns; only ``weight`` and ``groups`` are for reading."""

    weight: Array  # a copy, read-only
    groups: int
    packed: Array | None = field(repr=False)  # as the kernel wants it; None to take it as it is


def pack_conv2d_weight(weight: Array, groups: int = 1) -> PackedConv2dWeight:
    """Transform a constant weight once, for many calls of :func:`conv2d` that take it in its place.

    A 3x3 or 5x5 weight for Winograd's algorithm of stride 1 is packed if that takes at most
    12 MB; any other weight is kept as it is. The kernel is that of the instruction set and the
    precision now in force: a call that takes another kernel uses the weight as it was before.

    Parameters
    ----------
    weight : (K, C / groups, R, S); float32 and float64 are packed, 16-bit types kept as they are.
    groups : what conv2d will be called with.

    Returns
    -------
    A :class:`PackedConv2dWeight`. It holds a copy: later changes of the array do not reach it.

    Raises
    ------
    TypeError, ValueError : as :func:`conv2d`, which also raises ValueError for other groups.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, weight = np.ones((1, 32, 8, 8)), np.ones((32, 32, 3, 3))
    >>> packed = fastdl.pack_conv2d_weight(weight)
    >>> bool((fastdl.conv2d(x, packed) == fastdl.conv2d(x, weight)).all())
    True
    >>> fastdl.explain("conv2d", x, packed).kernel
    'Winograd F(4x4, 3x3), weight packed'
    """
    packed = _core.pack_conv2d_weight(weight, groups)
    copy = weight.copy()
    copy.flags.writeable = False
    usable = packed.size > 0 and packed.dtype == copy.dtype and packed.dtype.itemsize >= 4
    return PackedConv2dWeight(copy, groups, packed if usable else None)


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv2d`.

    With h = p s + i d - padding and w = q s + j d - padding:
    dx[n, c, h, w] = sum_{k, i, j} weight[k, c, i, j] dy[n, k, p, q],
    dweight[k, c, i, j] = sum_{n, p, q} dy[n, k, p, q] x[n, c, h, w], dbias[k] = sum dy[:, k].

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    x, weight, stride, padding, dilation, groups : what conv2d was called with.
    output_mask : which of dx, dweight and dbias to compute.

    Returns
    -------
    (dx, dweight, dbias), of the shapes of x, weight and bias; None where not asked for.

    Raises
    ------
    TypeError, ValueError : as :func:`conv2d`, or dy has not y's shape or x's dtype.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, weight = np.ones((1, 1, 2, 3)), np.array([[[[1.0, 2.0]]]])
    >>> dx, dweight, dbias = fastdl.conv2d_backward(np.ones((1, 1, 2, 2)), x, weight)
    >>> dx
    array([[[[1., 3., 2.],
             [1., 3., 2.]]]])
    >>> dweight, dbias
    (array([[[[4., 4.]]]]), array([4.]))
    """
    return _core.conv2d_backward(dy, x, weight, stride, padding, dilation, groups, output_mask)


@vjp_rule(conv2d)
def _conv2d_vjp(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Literal["relu", "gelu", "gelu_tanh"] | None = None,
    residual: Array | None = None,
) -> VJP:
    approximate = {"gelu": "none", "gelu_tanh": "tanh"}.get(activation or "")
    # The gradient of gelu needs what gelu is given; that of relu is as well told from its result.
    fused = None if approximate else activation
    window = (stride, padding, dilation, groups)
    saved = conv2d(x, weight, bias, *window, activation=fused, residual=residual)

    def gradients(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        if approximate:
            dy = gelu_backward(dy, saved, approximate)
        elif activation:
            dy = relu_backward(dy, saved)
        mask = [name in wrt for name in ("x", "weight", "bias")]
        dx, dweight, dbias = conv2d_backward(dy, x, weight, *window, mask)
        return {"x": dx, "weight": dweight, "bias": dbias, "residual": dy}

    return gelu(saved, approximate) if approximate else saved, gradients
