"""What holds for every differentiable op, tested on one typical call of each."""

import doctest
import inspect
import re

import numpy as np
import pytest

import fastdl
from tests.samples import SAMPLES
from tests.testing import (
    DTYPES,
    HALF_DTYPES,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
)

# Random by nature: compared through their own tests.
RANDOM = {"dropout"}
# Position of the arguments an op of torch.nn.functional takes and ours leaves out: deprecated, or
# only there for torch's own bookkeeping.
LEFT_OUT = {"size_average", "reduce", "_stacklevel"}
# Keywords of ours that torch's functions have not, or not all of them.
ADDED = {"out", "activation", "residual"}

each_op = pytest.mark.parametrize("op", sorted(SAMPLES))


@pytest.fixture(params=(*DTYPES, *HALF_DTYPES), ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    return request.param


def call(op, dtype):
    args, kwargs = SAMPLES[op](dtype)
    y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
    return y, pullback(np.asarray(np.cos(y), dtype))


def test_all_are_here():
    assert set(SAMPLES) | RANDOM == set(fastdl.differentiable_ops())


@each_op
def test_same_bits_for_any_threads(isa, dtype, op):
    assert_same_bits_for_any_threads(lambda: call(op, dtype))


@each_op
def test_every_layout_of_every_array(op, dtype):
    args, kwargs = SAMPLES[op](dtype)
    expected = call(op, dtype)
    for i, argument in enumerate(args):
        # batch_norm's running statistics are written in place
        written = op == "batch_norm" and i in (1, 2)
        if not isinstance(argument, np.ndarray) or argument.dtype != dtype:
            continue
        for name, array in layouts(argument).items():
            if written and name in ("read-only",):
                continue
            changed = (*args[:i], array, *args[i + 1 :])
            y, pullback = fastdl.vjp(getattr(fastdl, op), *changed, **kwargs)
            assert_same_bits((y, pullback(np.asarray(np.cos(y), dtype))), expected)


@each_op
def test_mixed_dtypes_are_refused(op):
    args, kwargs = SAMPLES[op](np.float32)
    floats = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype == np.float32]
    for i in floats if len(floats) > 1 else ():
        mixed = (*args[:i], args[i].astype(np.float64), *args[i + 1 :])
        with pytest.raises(TypeError, match=rf"\[{op}\] .*float(32|64)"):
            getattr(fastdl, op)(*mixed, **kwargs)


@each_op
def test_gradients_have_the_shape_and_dtype_of_the_arguments(op, dtype):
    args, _ = SAMPLES[op](dtype)
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    gradients = call(op, dtype)[1]
    assert len(gradients) == len(arrays)
    assert gradients[0] is not None
    for array, gradient in zip(arrays, gradients, strict=True):
        if gradient is not None:
            assert (gradient.shape, gradient.dtype) == (array.shape, array.dtype)


@each_op
def test_nothing_of_the_callers_changes(op, dtype):
    args, kwargs = SAMPLES[op](dtype)
    before = [np.array(a, copy=True) if isinstance(a, np.ndarray) else a for a in args]
    getattr(fastdl, op)(*args, **kwargs)
    for i, (array, old) in enumerate(zip(args, before, strict=True)):
        if isinstance(array, np.ndarray) and not (op == "batch_norm" and i in (1, 2)):
            np.testing.assert_array_equal(array, old)


@each_op
def test_explain_names_a_kernel(op, isa):
    args, kwargs = SAMPLES[op](np.float32)
    found = fastdl.explain(op, *args, **kwargs)
    assert found.kernel and found.flops > 0 and found.bytes > 0


def argument_names(function):
    """Of a function of torch; a builtin tells them in the first line of its docstring."""
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        inside = re.search(r"\((.*?)\)\s*->", function.__doc__, re.DOTALL).group(1)
        return [part.split("=")[0].strip() for part in inside.split(",") if part.strip() != "*"]


@each_op
def test_arguments_are_those_of_torch(torch, op):
    # max_pool2d itself hides its signature; matmul is no function of torch.nn.functional
    homes = [(torch.nn.functional, f"{op}_with_indices"), (torch.nn.functional, op), (torch, op)]
    theirs = next(getattr(home, name) for home, name in homes if hasattr(home, name))
    expected = [name for name in argument_names(theirs) if name not in {*LEFT_OUT, *ADDED}]
    ours = [n for n in inspect.signature(getattr(fastdl, op)).parameters if n not in ADDED]
    assert ours[1:] == expected[1:]


@pytest.mark.parametrize("name", [n for n in fastdl.__all__ if callable(getattr(fastdl, n))])
def test_public_functions_have_an_example_that_runs(name):
    function = getattr(fastdl, name)
    assert function.__doc__
    examples = doctest.DocTestParser().get_examples(function.__doc__)
    assert examples or inspect.isclass(function)
