"""batch_norm: normalise every channel over the batch, forward and backward."""

from collections.abc import Collection, Sequence

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Batch normalisation (Ioffe, Szegedy 2015).

    y = (x - mean) / sqrt(var + eps) * weight + bias for each channel; the semantics of
    `torch.nn.functional.batch_norm
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.batch_norm.html>`_.

    In training, mean and var (divided by the count n) are those of the batch, and the running
    statistics, if given, change in place to (1 - momentum) * running + momentum * batch, with the
    unbiased n / (n - 1) * var. An empty batch leaves them. In evaluation the running statistics
    are the mean and var.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C) or (N, C, d1, ...).
    running_mean, running_var : arrays (C,) of x's dtype; in training both may be None.
    weight, bias : arrays (C,) of x's dtype; ones and zeros by default. Beside a 16-bit x these four
        may also be float32 together.
    training : whether to normalise with the statistics of the batch.
    momentum : the share of the batch in the new running statistics.
    eps : added to the variance; positive in training.
    out : array of the result's shape and dtype to put it into; must not overlap the inputs.

    Returns
    -------
    Array of x's shape. In training, a channel that holds NaN or inf is NaN.

    Raises
    ------
    TypeError : an array is no float array, or their dtypes differ.
    ValueError : a shape does not fit; a running statistic is missing, or read-only in training;
        training with a single value per channel; eps out of range; out is read-only, overlaps an
        input or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> running_mean, running_var = np.zeros(1), np.ones(1)
    >>> fastdl.batch_norm(np.array([[1.0], [3.0]]), running_mean, running_var, training=True)
    array([[-0.999995],
           [ 0.999995]])
    >>> running_mean, running_var
    (array([0.2]), array([1.1]))
    """
    y: Array = _core.batch_norm_forward(
        x, running_mean, running_var, weight, bias, training, momentum, eps, out
    )[0]
    return y


def batch_norm_forward(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """:func:`batch_norm` with what its backward needs.

    Parameters and errors are those of :func:`batch_norm`.

    Returns
    -------
    y : the result, of x's shape.
    mean, rstd : the mean and 1 / sqrt(var + eps) it was made with, (C,), of x's dtype,
        or float32 beside a 16-bit x.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.array([[1.0], [3.0]])
    >>> y, mean, rstd = fastdl.batch_norm_forward(x, None, None, training=True)
    >>> mean, rstd.round(3)
    (array([2.]), array([1.]))
    """
    return _core.batch_norm_forward(
        x, running_mean, running_var, weight, bias, training, momentum, eps
    )


def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    training: bool = True,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`batch_norm`.

    With xhat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xhat * mean(g *
    xhat)) with means over the channel in training, else rstd * g; dweight = sum(dy * xhat) and
    dbias = sum(dy) over the channel.

    Parameters
    ----------
    dy : gradient of the result, of x's shape and dtype.
    x, weight, training : what :func:`batch_norm_forward` was given.
    mean, rstd : what it returned.
    output_mask : which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias, None where the mask says so.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, dy = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])
    >>> fastdl.batch_norm_backward(dy, x, None, mean=np.array([2.0]), rstd=np.array([1.0]))
    (array([[0.],
           [0.]]), array([1.]), array([3.]))
    """
    return _core.batch_norm_backward(dy, x, weight, mean, rstd, training, output_mask)


@vjp_rule(batch_norm)
def _batch_norm_vjp(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> VJP:
    y, mean, rstd = batch_norm_forward(
        x, running_mean, running_var, weight, bias, training, momentum, eps
    )

    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        names = ("x", "weight", "bias")
        mask = [name in wrt for name in names]
        grads = batch_norm_backward(dy, x, weight, mean, rstd, training, mask)
        return dict(zip(names, grads, strict=True))

    return y, pullback
