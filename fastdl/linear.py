"""linear: the fully connected layer, forward and backward."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.activations import gelu, gelu_backward, relu_backward
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def linear(
    x: Array,
    weight: "Array | PackedLinearWeight",
    bias: Array | None = None,
    *,
    activation: Literal["relu", "gelu", "gelu_tanh"] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Linear map of the last dimension, and what usually follows it.

    y[..., o] = activation(bias[o] + sum_i x[..., i] weight[o, i] + residual[..., o]); without
    activation and residual the semantics of `torch.nn.functional.linear
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.linear.html>`_. Both are
    applied while the result is in the cache, which saves a pass over it for each.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (..., in).
    weight : array (out, in), or (in,) for one output without a dimension of its own, of x's dtype;
        or what :func:`pack_linear_weight` made of it.
    bias : array (out,), or () or (1,) for one value for all outputs; () for a weight (in,). Other
        shapes that happen to broadcast, which torch takes without documenting it, are refused.
    activation : :func:`fastdl.relu`, or :func:`fastdl.gelu` by the normal distribution function or
        its approximation by tanh; None for the identity.
    residual : array of the result's shape and dtype to be added before the activation.
    out : array of the result's shape and dtype to put it into; must not overlap the inputs.

    Returns
    -------
    Array (..., out), or (...) for a weight (in,); without products if in = 0.

    Raises
    ------
    TypeError : an input is no float array, or their dtypes differ.
    ValueError : shapes do not fit each other; activation is none of these; out is read-only,
        overlaps an input or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> weight = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> fastdl.linear(np.array([[3.0, 4.0]]), weight, np.array([0.0, 0.0, 0.5]))
    array([[3. , 8. , 7.5]])
    >>> fastdl.linear(np.array([[-3.0, 4.0]]), weight, activation="relu")
    array([[0., 8., 1.]])
    """
    packed: Array | None = None
    if isinstance(weight, PackedLinearWeight):
        packed, weight = weight.packed, weight.weight
    return _core.linear_forward(x, weight, bias, activation, residual, out, packed)


@dataclass(frozen=True, eq=False)
class PackedLinearWeight:
    """What :func:`pack_linear_weight` returns; only ``weight`` is for reading."""

    weight: Array  # a copy, read-only
    packed: Array | None = field(repr=False)  # as the kernel wants it; None to take it as it is


def pack_linear_weight(weight: Array) -> PackedLinearWeight:
    """Rearrange a constant weight once, for many calls of :func:`linear` that take it in its place.

    It takes twice the memory: a single row of x is multiplied by the weight as it was, and so is
    any x under another instruction set than the one now in use.

    Parameters
    ----------
    weight : (out, in); float32 and float64 are packed, 16-bit types kept as they are.

    Returns
    -------
    A :class:`PackedLinearWeight`. It holds a copy: later changes of the array do not reach it.

    Raises
    ------
    TypeError, ValueError : weight is no float array, or has another number of dimensions.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, weight = np.ones((16, 8)), np.ones((4, 8))
    >>> packed = fastdl.pack_linear_weight(weight)
    >>> bool((fastdl.linear(x, packed) == fastdl.linear(x, weight)).all())
    True
    >>> fastdl.explain("linear", x, packed).kernel
    'gemm, weight packed'
    """
    packed = _core.pack_linear_weight(weight)
    copy = weight.copy()
    copy.flags.writeable = False
    usable = packed.dtype == copy.dtype and packed.dtype.itemsize >= 4
    return PackedLinearWeight(copy, packed if usable else None)


def linear_backward(
    dy: Array, x: Array, weight: Array, output_mask: Sequence[bool] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`linear`.

    dx = dy weight; dweight = dy^T x and dbias = sum(dy) over all leading dimensions.

    Parameters
    ----------
    dy : gradient of the result, of its shape and dtype.
    x, weight : what :func:`linear` was given.
    output_mask : which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : of the shapes of x, weight and a bias (out,), or () for a weight (in,);
        None where the mask says so.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> fastdl.linear_backward(np.array([[10.0]]), x, weight)
    (array([[30., 40.]]), array([[10., 20.]]), array([10.]))
    """
    return _core.linear_backward(dy, x, weight, output_mask)


@vjp_rule(linear)
def _linear_vjp(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: Literal["relu", "gelu", "gelu_tanh"] | None = None,
    residual: Array | None = None,
) -> VJP:
    approximate = {"gelu": "none", "gelu_tanh": "tanh"}.get(activation or "")
    # The gradient of gelu needs what gelu is given; that of relu is as well told from its result.
    fused = None if approximate else activation
    saved = linear(x, weight, bias, activation=fused, residual=residual)

    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        if approximate:
            dy = gelu_backward(dy, saved, approximate)
        elif activation:
            dy = relu_backward(dy, saved)
        mask = [name in wrt for name in ("x", "weight", "bias")]
        dx, dweight, dbias = linear_backward(dy, x, weight, mask)
        if bias is not None and dbias is not None and bias.shape != dbias.shape:
            dbias = dbias.sum().reshape(bias.shape)  # one bias for all outputs
        return {"x": dx, "weight": dweight, "bias": dbias, "residual": dy}

    return gelu(saved, approximate) if approximate else saved, pullback
