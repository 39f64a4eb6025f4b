"""relu, relu6, leaky_relu, elu, sigmoid, tanh, silu and gelu, forward and backward.

All take float16, bfloat16, float32 and float64 arrays of any shape and return one of the same shape
and dtype.
"""

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def relu(x: Array, inplace: bool = False, *, out: Array | None = None) -> Array:
    """y = max(x, 0), NaN where x is NaN.

    The semantics of `torch.nn.functional.relu
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.relu.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array of any shape.
    inplace : write the result into x and return x.
    out : array of x's shape and dtype to put the result into; must not overlap x.

    Returns
    -------
    Array of x's shape and dtype.

    Raises
    ------
    TypeError : x is no float array.
    ValueError : out (or x, with inplace) is read-only; out overlaps x or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.relu(np.array([-1.0, 2.0, np.nan]))
    array([ 0.,  2., nan])
    """
    return _core.relu_forward(x, inplace, out)


def relu_backward(dy: Array, x: Array) -> Array:
    """Gradient of :func:`relu`: dx = dy where x > 0, 0 where x <= 0.

    Parameters
    ----------
    dy : gradient of the result, of x's shape and dtype.
    x : the input of the forward, or its result: it is positive at the same places.

    Returns
    -------
    dx, the gradient of x, of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes of dy and x differ.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.relu_backward(np.array([3.0, 4.0]), np.array([-1.0, 2.0]))
    array([0., 4.])
    """
    return _core.relu_backward(dy, x)


@takes_tensors
def relu6(x: Array, inplace: bool = False, *, out: Array | None = None) -> Array:
    """y = min(max(x, 0), 6), NaN where x is NaN (Howard et al. 2017).

    The semantics of `torch.nn.functional.relu6
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.relu6.html>`_.
    Parameters, result and errors are those of :func:`relu`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.relu6(np.array([-1.0, 2.0, 7.0]))
    array([0., 2., 6.])
    """
    return _core.relu6_forward(x, inplace, out)


def relu6_backward(dy: Array, x: Array) -> Array:
    """Gradient of :func:`relu6`: dx = 0 where x <= 0 or x >= 6, dy elsewhere.

    Where x is NaN, dx is dy, as for :func:`relu`; PyTorch has dy or 0 there, by its place.
    Parameters, result and errors are those of :func:`relu_backward`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.relu6_backward(np.array([3.0, 4.0, 5.0]), np.array([-1.0, 2.0, 7.0]))
    array([0., 4., 0.])
    """
    return _core.relu6_backward(dy, x)


@takes_tensors
def leaky_relu(
    x: Array, negative_slope: float = 0.01, inplace: bool = False, *, out: Array | None = None
) -> Array:
    """y = x where x > 0, negative_slope * x elsewhere.

    The semantics of `torch.nn.functional.leaky_relu
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.leaky_relu.html>`_.
    Parameters, result and errors are those of :func:`relu`; a negative_slope that overflows x's
    dtype is a ValueError.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.leaky_relu(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """
    return _core.leaky_relu_forward(x, negative_slope, inplace, out)


def leaky_relu_backward(dy: Array, x: Array, negative_slope: float = 0.01) -> Array:
    """Gradient of :func:`leaky_relu`: dx = dy where x > 0, negative_slope * dy elsewhere.

    Parameters, result and errors are those of :func:`relu_backward`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.leaky_relu_backward(np.array([3.0, 4.0]), np.array([-1.0, 2.0]), 0.5)
    array([1.5, 4. ])
    """
    return _core.leaky_relu_backward(dy, x, negative_slope)


@takes_tensors
def elu(x: Array, alpha: float = 1.0, inplace: bool = False, *, out: Array | None = None) -> Array:
    """y = x where x >= 0, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2016).

    Keeps its relative accuracy near 0. The semantics of `torch.nn.functional.elu
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.elu.html>`_.
    Parameters, result and errors are those of :func:`relu`; an alpha that overflows x's dtype is a
    ValueError.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.elu(np.array([-np.inf, 2.0]), alpha=0.5)
    array([-0.5,  2. ])
    """
    return _core.elu_forward(x, alpha, inplace, out)


def elu_backward(dy: Array, x: Array, alpha: float = 1.0) -> Array:
    """Gradient of :func:`elu`: dx = dy where x > 0, dy * alpha * exp(x) elsewhere.

    Parameters, result and errors are those of :func:`relu_backward`; x must be the input.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.elu_backward(np.array([3.0, 4.0]), np.array([-np.inf, 2.0]))
    array([0., 4.])
    """
    return _core.elu_backward(dy, x, alpha)


@takes_tensors
def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """y = 1 / (1 + exp(-x)).

    The semantics of `torch.nn.functional.sigmoid
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.sigmoid.html>`_; does not
    underflow before exp(x) does. Parameters, result and errors are those of :func:`relu`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    return _core.sigmoid_forward(x, False, out)


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient of :func:`sigmoid`: dx = dy * y * (1 - y).

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    y : what ``sigmoid(x)`` returned.

    Result and errors are those of :func:`relu_backward`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.sigmoid_backward(np.array([4.0]), np.array([0.5]))
    array([1.])
    """
    return _core.sigmoid_backward(dy, y)


@takes_tensors
def tanh(x: Array, *, out: Array | None = None) -> Array:
    """y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    Keeps its relative accuracy near 0. The semantics of `torch.nn.functional.tanh
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.tanh.html>`_.
    Parameters, result and errors are those of :func:`relu`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.tanh(np.array([-np.inf, 0.0, 1e-300]))
    array([-1.e+000,  0.e+000,  1.e-300])
    """
    return _core.tanh_forward(x, False, out)


def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient of :func:`tanh`: dx = dy * (1 - y^2).

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    y : what ``tanh(x)`` returned.

    Result and errors are those of :func:`relu_backward`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.tanh_backward(np.array([4.0]), np.array([0.5]))
    array([3.])
    """
    return _core.tanh_backward(dy, y)


@takes_tensors
def silu(x: Array, inplace: bool = False, *, out: Array | None = None) -> Array:
    """y = x * sigmoid(x), also known as swish (Hendrycks & Gimpel 2016, Elfwing et al. 2017).

    The semantics of `torch.nn.functional.silu
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.silu.html>`_: NaN at -inf.
    Parameters, result and errors are those of :func:`relu`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.silu(np.array([-1000.0, 0.0, 1000.0]))
    array([  -0.,    0., 1000.])
    """
    return _core.silu_forward(x, inplace, out)


def silu_backward(dy: Array, x: Array) -> Array:
    """Gradient of :func:`silu`: dx = dy * sigmoid(x) * (1 + x * sigmoid(-x)).

    Parameters, result and errors are those of :func:`relu_backward`; x must be the input.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.silu_backward(np.array([4.0]), np.array([0.0]))
    array([2.])
    """
    return _core.silu_backward(dy, x)


@takes_tensors
def gelu(x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """y = x * Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016).

    With approximate="tanh" it is x * (1 + tanh(u)) / 2, u = sqrt(2 / pi) * (x + 0.044715 x^3). The
    semantics of `torch.nn.functional.gelu
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.gelu.html>`_, NaN at -inf, but
    without its cancellation at negative x. Parameters, result and errors are those of :func:`relu`;
    another approximate is a ValueError.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.gelu(np.array([-1000.0, 0.0, 1000.0]), approximate="tanh")
    array([  -0.,    0., 1000.])
    """
    return _core.gelu_forward(x, approximate, False, out)


def gelu_backward(dy: Array, x: Array, approximate: str = "none") -> Array:
    """Gradient of :func:`gelu`: dx = dy * (Phi(x) + x * Phi'(x)), or that of its approximation.

    Parameters, result and errors are those of :func:`relu_backward`; x must be the input.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.gelu_backward(np.array([4.0]), np.array([0.0]))
    array([2.])
    """
    return _core.gelu_backward(dy, x, approximate)


@vjp_rule(relu)
def _relu_vjp(x: Array) -> VJP:
    return relu(x), lambda dy, _: {"x": relu_backward(dy, x)}


@vjp_rule(relu6)
def _relu6_vjp(x: Array) -> VJP:
    return relu6(x), lambda dy, _: {"x": relu6_backward(dy, x)}


@vjp_rule(leaky_relu)
def _leaky_relu_vjp(x: Array, negative_slope: float = 0.01) -> VJP:
    return leaky_relu(x, negative_slope), lambda dy, _: {
        "x": leaky_relu_backward(dy, x, negative_slope)
    }


@vjp_rule(elu)
def _elu_vjp(x: Array, alpha: float = 1.0) -> VJP:
    return elu(x, alpha), lambda dy, _: {"x": elu_backward(dy, x, alpha)}


@vjp_rule(sigmoid)
def _sigmoid_vjp(x: Array) -> VJP:
    y = sigmoid(x)
    return y, lambda dy, _: {"x": sigmoid_backward(dy, y)}


@vjp_rule(tanh)
def _tanh_vjp(x: Array) -> VJP:
    y = tanh(x)
    return y, lambda dy, _: {"x": tanh_backward(dy, y)}


@vjp_rule(silu)
def _silu_vjp(x: Array) -> VJP:
    return silu(x), lambda dy, _: {"x": silu_backward(dy, x)}


@vjp_rule(gelu)
def _gelu_vjp(x: Array, approximate: str = "none") -> VJP:
    return gelu(x, approximate), lambda dy, _: {"x": gelu_backward(dy, x, approximate)}
